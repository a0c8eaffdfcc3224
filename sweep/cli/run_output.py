"""What a finished run prints: the table, the advice and the path of the report; or the records as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from sweep import __version__
from sweep.cli.exits import Exit, exit_code
from sweep.cli.output import Format, Output
from sweep.defaults import DRAFTED_TOKENS
from sweep.jobs.model import MeasurementJob
from sweep.methods.registry import method
from sweep.record import Record
from sweep.results.plan import Plan
from sweep.results.records import importance, notes, records
from sweep.results.store import Store
from sweep.run_question import NO_QUESTION, RunQuestion
from sweep.workspace import Workspace

if TYPE_CHECKING:
    from sweep.analysis.advice import Advice


def show_results(
    plan: Plan,
    workspace: Workspace,
    output: Output,
    given: RunQuestion = NO_QUESTION,
    seconds: float | None = None,
    export: str | None = None,
    force: bool = False,
) -> Exit:
    """Write the HTML report and print the records and the advice. The exit code says whether a job failed or was
    cancelled, and if none was, whether nothing satisfies the target. `given` are the options for the advice that
    are given now, in place of those of the run. `export` and `force` are those of
    `write_export`."""
    from sweep.analysis.advice import to_json as advice_to_json
    from sweep.analysis.changed_items import changed_items
    from sweep.analysis.ptq_study import study_comparison
    from sweep.analysis.run_commands import model_as_typed
    from sweep.commands.run_advice import advise_as_asked
    from sweep.report.advice import command_lines
    from sweep.report.changed_items import ITEMS
    from sweep.report.csv_json import finite
    from sweep.report.html import write_html
    from sweep.report.ptq_study import render_study
    from sweep.report.results_table import render_table

    with Store(workspace.database) as store:
        rows, description, remarks = records(plan, store), describe_run(plan, store), notes(plan, store)
        changed = changed_items(plan, store, workspace.root, ITEMS)
    folder = workspace.run(plan.run)
    folder.mkdir(parents=True, exist_ok=True)  # it may have been deleted since the run
    advice, said = advise_as_asked(rows, plan, workspace, given)
    page = write_html(rows, description, folder / "report.html", advice, changed)
    if output.is_json:
        shown = [finite(row.to_json(samples=True)) for row in rows]
        told = finite(advice_to_json(advice, model_as_typed(plan), workspace.arguments))
        output.line(
            {"event": "finished", "run": plan.run, "records": shown, "notes": [*said, *remarks], "advice": told}
        )
    else:
        is_asked = len(plan.variants) > 1 or advice.target  # otherwise there is nothing to choose
        choice = advice if is_asked else None
        output.show(render_table(rows, output.data.width, choice))
        study = study_comparison(rows)
        if study is not None:
            output.show(render_study(study, output.data.width))
        if output.format is not Format.QUIET and choice is not None:
            for line in command_lines(choice):
                output.show(escape(line))
        for remark in (*said, *remarks):
            output.say(remark)
        took = f" in {seconds:.0f} s" if seconds is not None else ""
        if output.format is not Format.QUIET:
            output.show(f"\nRun {plan.run}{took}. Report: {shortest(page)}")
    if export is not None:
        from sweep.cli.export_output import write_export

        write_export(export, advice, output, force)
    return exit_code_with(rows, advice)


def exit_code_with(rows: Iterable[Record], advice: Advice) -> Exit:
    """The exit code for a run with these records and this advice."""
    code = exit_code_of(rows)
    return Exit.DOES_NOT_FIT if code is Exit.OK and advice.target and advice.pick is None else code


def shortest(path: Path) -> Path:
    """The path relative to the current directory, if it is inside."""
    current = Path.cwd()
    return path.relative_to(current) if path.is_relative_to(current) else path


def exit_code_of(rows: Iterable[Record]) -> Exit:
    """The exit code for a run with these records. A variant that does not fit the GPU of --gpu is no error."""
    return exit_code(ending for row in rows for ending in row.unfinished.values())


def describe_run(plan: Plan, store: Store) -> dict[str, object]:
    """How the run measured, for the report: names and values to print in this order."""
    settings = plan.settings
    task_settings = plan.about.get("task_settings", {})  # plans of earlier versions lack it
    tasks = {
        name: task_settings.get(name) or ("all items" if limit is None else f"first {limit} items")
        for name, limit in plan.about["tasks"].items()
    }
    scored = "second half" if settings.stride is None else f"last {settings.stride}"
    return {
        "model": plan.about["model"],
        "run": plan.run,
        "preset": plan.preset,
        "reference": _describe_reference(plan),
        "text": f"{texts_of(plan)}, windows of {settings.window} tokens, {scored} scored"
        if plan.about["text"]
        else "none",
        "importance matrix": importance(plan, store),
        "batch": f"{settings.batch} logical, {settings.ubatch} physical",
        "KV cache": f"{cache_words(plan)}; memory computed for a context of {settings.ctx} tokens",
        **(
            {}
            if (draft := plan.about.get("draft")) is None
            else {"draft": f"{draft}, {DRAFTED_TOKENS} tokens at a time"}
        ),
        "tasks": ", ".join(f"{name} ({items})" for name, items in tasks.items()) or "none",
        "device": f"{plan.resources.device('llama.cpp')}, {plan.resources.threads} threads",
        "engine": plan.about["engine"],
        **_describe_torch(plan),
        "torch": version("torch"),
        "bitsweep": __version__,
        **({"notes": "; ".join(remarks)} if (remarks := notes(plan, store)) else {}),
    }


def _describe_reference(plan: Plan) -> str:
    """What variants are compared with, and why, if the sweep chose it among published files."""
    found = dict.fromkeys(plan.reference_of(name) for name in [plan.reference, *plan.variants])
    reason = "" if plan.reference_reason is None else f", {plan.reference_reason}"
    return " and ".join(f"{name}{reason}" if name == plan.reference else name for name in found)


def texts_of(plan: Plan) -> str:
    """The names of the texts, the first one first; plans of earlier versions have only one."""
    return " and ".join([str(plan.about["text"]), *plan.about.get("other_texts", ())])


def cache_words(plan: Plan) -> str:
    """The type of llama.cpp's KV cache, and that of the reference if it is another."""
    own = plan.settings.kv_type
    model = plan.model_of(plan.reference) if plan.reference in plan.variants else None
    if model is None or model.settings.kv_type == own or method(plan.reference).baseline is not None:
        return own
    return f"{own} (reference {plan.reference}: {model.settings.kv_type})"


def _describe_torch(plan: Plan) -> dict[str, object]:
    """How the variants that run in torch were measured; empty if the run has none."""
    torch = plan.about.get("torch")
    if torch is None:
        return {}
    jobs = (cell.job for cell in plan.cells if method(cell.variant).baseline is not None)
    caches = sorted({job.model.settings.kv_type.upper() for job in jobs if isinstance(job, MeasurementJob)})
    calibrated = f"; calibrated with {torch['calibration']}" if torch["calibration"] else ""
    return {"int8": f"{torch['engine']}, on {torch['device']}, {' and '.join(caches)} KV cache{calibrated}"}
