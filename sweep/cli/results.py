"""What a finished run prints: the table, the recommendation, where the report lies; or the records as JSON."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from sweep import __version__
from sweep.cli.exits import Exit
from sweep.cli.output import Format, Output
from sweep.jobs.model import MeasurementJob
from sweep.methods.registry import method
from sweep.record import Record
from sweep.results.plan import Plan
from sweep.results.records import importance, notes, records
from sweep.results.store import Store
from sweep.workspace import Workspace


def show_results(plan: Plan, workspace: Workspace, output: Output, seconds: float | None = None) -> Exit:
    """Write the HTML report and print the records; the exit code says whether cells failed."""
    from sweep.analysis.recommend import recommend
    from sweep.report.csv_json import finite
    from sweep.report.html import write_html
    from sweep.report.results_table import render_table

    with Store(workspace.database) as store:
        rows, about, told = records(plan, store), described(plan, store), notes(plan, store)
    page = write_html(rows, about, workspace.run(plan.run) / "report.html")
    if output.is_json:
        output.line({"event": "finished", "run": plan.run, "records": [finite(row.to_json()) for row in rows]})
    else:
        choice = recommend(rows) if len(plan.variants) > 1 else None  # one alone is not chosen
        output.show(render_table(rows, output.data.width, choice))
        for note in told:
            output.say(note)
        took = f" in {seconds:.0f} s" if seconds is not None else ""
        if output.format is not Format.QUIET:
            output.show(f"\nRun {plan.run}{took}. Report: {_shortest(page)}")
    return exit_code(rows)


def _shortest(path: Path) -> Path:
    """The path as it is typed from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def exit_code(rows: list[Record]) -> Exit:
    """CELLS_FAILED where any variant has an error; one that was skipped has none."""
    return Exit.CELLS_FAILED if any(row.error and row.status != "skipped" for row in rows) else Exit.OK


def described(plan: Plan, store: Store) -> dict[str, object]:
    """How the run measured, for the report: names and values to print in this order."""
    settings = plan.settings
    settings_of = plan.about.get("task_settings", {})  # not of plans that an earlier version wrote
    tasks = {
        name: settings_of.get(name) or ("all items" if limit is None else f"first {limit} items")
        for name, limit in plan.about["tasks"].items()
    }
    scored = "second half" if settings.stride is None else f"last {settings.stride}"
    return {
        "model": plan.about["model"],
        "run": plan.run,
        "preset": plan.preset,
        "reference": " and ".join(dict.fromkeys(plan.reference_of(name) for name in [plan.reference, *plan.variants])),
        "text": f"{plan.about['text']}, windows of {settings.window} tokens, {scored} scored"
        if plan.about["text"]
        else "none",
        "importance": importance(plan, store),
        "batch": f"{settings.batch} logical, {settings.ubatch} physical",
        "KV cache": f"{settings.kv_type}; memory stated for a context of {settings.ctx} tokens",
        "tasks": ", ".join(f"{name} ({items})" for name, items in tasks.items()) or "none",
        "device": f"{plan.resources.device('llama.cpp')}, {plan.resources.threads} threads",
        "engine": plan.about["engine"],
        **_torch(plan),
        "torch": version("torch"),
        "bitsweep": __version__,
    }


def _torch(plan: Plan) -> dict[str, object]:
    """How variants of torch ran, where there are any."""
    told = plan.about.get("torch")
    if told is None:
        return {}
    jobs = (cell.job for cell in plan.cells if method(cell.variant).baseline is not None)
    caches = sorted({job.model.settings.kv_type.upper() for job in jobs if isinstance(job, MeasurementJob)})
    calibrated = f"; calibrated with {told['calibration']}" if told["calibration"] else ""
    return {"int8": f"{told['engine']}, on {told['device']}, {' and '.join(caches)} KV cache{calibrated}"}
