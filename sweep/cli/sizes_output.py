"""What the comparison of several runs prints: tables, the frontier and the choice; or one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from converters.atomic import write_text
from converters.shell import join
from presets.advice import Tolerance
from sweep import __version__
from sweep.analysis import figures
from sweep.analysis.size_choice import choose, frontier
from sweep.analysis.size_scaling import SizeScaling
from sweep.cli.exits import Exit
from sweep.cli.output import Format, Output
from sweep.cli.run_output import shortest
from sweep.commands.sizes import sizes_of, sizes_page
from sweep.fit.memory_limit import MemoryLimit
from sweep.report.csv_json import finite
from sweep.report.size_scaling import render_sizes
from sweep.report.size_scaling_html import render_sizes_page
from sweep.results.plan import Plan
from sweep.workspace import Workspace


def show_sizes(
    plans: Sequence[Plan],
    workspace: Workspace,
    output: Output,
    limit: MemoryLimit,
    tolerance: Tolerance | None,
    codes: Sequence[Exit],
) -> None:
    """Write the HTML report and print the comparison. `codes` are the exit codes of the runs. Raises InputError if
    there are not two models with results."""
    scaling = sizes_of(plans, workspace)
    page = sizes_page(plans, workspace)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, sizes_html(scaling, plans, limit, tolerance))
    steps, choice = frontier(scaling, tolerance), choose(scaling, limit.limit_bytes, tolerance)
    if output.is_json:
        by_run = {plan.run: int(code) for plan, code in zip(plans, codes, strict=True)}
        told = {
            **_to_json(scaling, by_run),
            "limit": limit.words,
            "choice": choice.to_json(),
            "frontier": [step.to_json() for step in steps],
            "html": str(page),
        }
        output.line({"event": "sizes", **finite(told)})
        return
    output.show(render_sizes(scaling, steps, choice, limit, output.data.width))
    if output.format is not Format.QUIET:
        again = join(["sweep", "report", *(plan.run for plan in plans), *workspace.arguments])
        output.show(escape(f"\nReport: {shortest(page)}\nTo show this again: {again}"))


def sizes_html(
    scaling: SizeScaling, plans: Sequence[Plan], limit: MemoryLimit, tolerance: Tolerance | None = None
) -> str:
    """The comparison as one HTML page."""
    texts = dict.fromkeys(model.text or "none" for model in scaling.models)
    about = {
        "runs": ", ".join(model.run for model in scaling.models),
        "text": "; ".join(texts),
        "compared tasks": ", ".join(scaling.tasks) or "none",
        "memory": f"computed for a context of {' and '.join(dict.fromkeys(str(p.settings.ctx) for p in plans))} tokens",
        "engine": " and ".join(dict.fromkeys("; ".join(_listed(plan.about["engine"])) for plan in plans)),
        "bitsweep": __version__,
    }
    steps, choice = frontier(scaling, tolerance), choose(scaling, limit.limit_bytes, tolerance)
    return render_sizes_page(scaling, steps, choice, limit, about)


def _listed(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _to_json(scaling: SizeScaling, codes: dict[str, int]) -> dict[str, Any]:
    variants = []
    for model in scaling.models:
        for record in figures.by_size(model.records):
            kld, need = scaling.kld(model.name, record.variant), figures.memory(record)
            variants.append(
                {
                    "model": model.name,
                    "variant": record.variant,
                    "status": record.status,
                    "file_bytes": record.file_bytes,
                    "bits_per_weight": record.bits_per_weight,
                    "memory_bytes": None if need is None else need[0],
                    "kld": None if kld is None else kld.value,
                    "perplexity": scaling.perplexity(model.name, record.variant),
                    "score": scaling.score(model.name, record.variant),
                }
            )
    models = [
        {
            "model": model.name,
            "run": model.run,
            "parameters": _whole(model.parameters),
            "exit_code": codes.get(model.run),
        }
        for model in scaling.models
    ]
    return {
        "runs": list(codes),
        "models": models,
        "tasks": list(scaling.tasks),
        "perplexity_compared": scaling.texts is not None,
        "variants": variants,
        "notes": list(scaling.notes),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
