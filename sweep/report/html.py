"""The results of a sweep as one HTML file that loads nothing: no scripts, no fonts, and images only inside the file.

The content is prepared here and in `html_tables` and `svg`; `templates/` lays it out and escapes all text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from converters.atomic import write_text
from sweep import format as fmt
from sweep.analysis import figures, pareto_sets
from sweep.analysis.advice import Advice
from sweep.analysis.item_answers import ChangedItems
from sweep.analysis.plots import Measure, costs, measures, points
from sweep.analysis.ptq_study import study_comparison
from sweep.analysis.run_candidates import advise_on_records
from sweep.analysis.trust import trust_notes
from sweep.record import Record
from sweep.report.advice import alternative, alternatives
from sweep.report.axes import positive
from sweep.report.changed_items import html_items
from sweep.report.html_tables import differences_table, fidelity_table, per_bit_table, tasks_table, texts_table
from sweep.report.ptq_study import study_table
from sweep.report.svg import ScatterPlot, scatter

ANOTHER_FILE = "choose another --html FILE"


def write_html(
    records: Sequence[Record],
    settings: Mapping[str, object],
    path: Path,
    advice: Advice | None = None,
    changed: Sequence[ChangedItems] = (),
) -> Path:
    """Write the report to a temporary file and rename it to `path`. Raises InputError if it cannot be written.

    For the other arguments see `render_html`.
    """
    write_text(path, render_html(records, settings, advice, changed), ANOTHER_FILE)
    return path


def render_html(
    records: Sequence[Record],
    settings: Mapping[str, object],
    advice: Advice | None = None,
    changed: Sequence[ChangedItems] = (),
) -> str:
    """The whole page. The order of `records` does not matter: rows go from fewest to most bits per weight.

    `settings` says how the sweep was measured (model, run, versions, context, texts, tasks, ...) and is printed in its
    order; its "model" is in the title. Without an `advice`, it is given here with no memory limit. `changed` are the
    items to show, whose images are read from their files.
    """
    advice = advice or advise_on_records(records)
    rows = figures.by_size(records)
    model, run, chosen = settings.get("model"), settings.get("run"), advice.variant
    pareto, judged_by = pareto_sets.set_for_tables(rows)
    tests = figures.task_tests(rows)
    sentence, study = fmt.plain(advice.reason), study_comparison(rows)
    return render(
        "sweep.html",
        title=f"{fmt.plain(model)}: which variant to run" if model else "Which variant to run",
        above=f"run {run}" if run else "",
        about=settings,
        chosen=chosen,
        verdict=(sentence, "", "") if chosen is None else sentence.partition(fmt.plain(chosen)),
        alternatives=[(words, alternative(one, advice.model)) for words, one in alternatives(advice)],
        others=[(fmt.plain(row.variant), why) for row in rows if (why := advice.why_not(row.variant))],
        notes=trust_notes(rows),
        pareto=pareto,
        judged_by=judged_by,
        fidelity=fidelity_table(rows, chosen, pareto),
        texts=texts_table(rows),
        tasks=tasks_table(rows, tests, chosen, pareto),
        differences=differences_table(rows, tests),
        tests=len(tests),
        base=figures.reference_words(rows),
        alpha=figures.ALPHA,
        subject_notes=figures.subject_notes(rows),
        recovered=len(figures.mean_recovery(rows)) > 1,
        plots=[figure for measure in measures(rows) if (figure := _figure(rows, measure, chosen)).drawn],
        per_bit=per_bit_table(rows),
        study=None if study is None else study_table(study),
        study_notes=() if study is None else study.notes,
        changed=html_items(changed),
        failures=[record for record in rows if record.status != "ok" or record.error],
    )


@dataclass(frozen=True)
class _Figure:
    """The plots of one measure, by the name of the x axis. `absent`: variants that a log axis cannot show."""

    measure: Measure
    drawn: Mapping[str, ScatterPlot]
    absent: Sequence[str]


def _figure(rows: Sequence[Record], measure: Measure, chosen: str | None) -> _Figure:
    """Plots against bits per weight and against file size; the reader chooses which one the page shows."""
    drawn, absent = {}, []
    for cost in costs(rows)[:2]:
        found = points(rows, measure, cost, chosen)
        shown = [point for point in found if not measure.axis.log or positive(point.y)]
        absent = [point.label for point in found if point not in shown]
        if shown:
            name = f"{measure.name} against {cost.axis.label}"
            drawn[cost.name] = scatter(shown, cost.axis, measure.axis, name, measure.levels)
    return _Figure(measure, drawn, absent)


def render(template: str, *, about: Mapping[str, object], **content: Any) -> str:
    """A page from a template. `about` says how it was measured: names and values in their order."""
    return TEMPLATES.get_template(template).render(about={k: _written(v) for k, v in about.items()}, **content)


def _written(value: object) -> str:
    if value is None:
        return fmt.MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_written(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(map(_written, value))
    return str(value)


def _printable(value: object) -> object:
    """Replace characters that cannot be printed, in text that is not HTML (HTML was built from such text already)."""
    return fmt.printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


TEMPLATES = Environment(
    loader=PackageLoader("sweep.report"),
    autoescape=True,
    undefined=StrictUndefined,  # a misspelt name in a template is an error, not an empty string
    finalize=_printable,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals["fmt"] = fmt
