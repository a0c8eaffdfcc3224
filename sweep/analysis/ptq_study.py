"""The figures of a published study next to those of a run, for the same model, method and bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from presets.ptq_study import StudyRow, study
from sweep import format as fmt
from sweep.analysis import figures
from sweep.record import Record


@dataclass(frozen=True)
class StudyComparison:
    """The records that the study has figures for, with these figures. `tasks`: those that both have figures for."""

    rows: tuple[tuple[Record, StudyRow], ...]
    tasks: tuple[str, ...]
    notes: tuple[str, ...]


def study_comparison(records: Sequence[Record]) -> StudyComparison | None:
    """None if the study has no figures for the model, or for none of the measured quantized variants."""
    rows = tuple(
        (record, record.study)
        for record in figures.by_size(records)
        if (figures.perplexity(record) is not None or record.tasks) and record.study is not None
    )
    if all(record.variant == figures.task_reference_of(record) for record, _ in rows):
        return None
    tasks = tuple(task for task in figures.task_names(records) if any(task in row.tasks for _, row in rows))
    found = study(rows[0][1].study)
    perplexities = (
        f" Its perplexities are of {found.text}, those of this run of its own text: compare the rise over the "
        "unquantized model."
    )
    notes = [f"Study: {found.source}.{perplexities if found.text else ''}", *_defects(rows)]
    return StudyComparison(rows, tasks, tuple(notes))


def _defects(rows: Sequence[tuple[Record, StudyRow]]) -> list[str]:
    """The known defects of the study's figures in `rows`, with the variants that they concern."""
    by_method: dict[str, list[str]] = {}
    for record, row in rows:
        for part in dict.fromkeys((row.variant.partition(":")[0], row.variant)):
            by_method.setdefault(part, []).append(fmt.plain(record.variant))
    known = study(rows[0][1].study).defects
    found = [f"{', '.join(names)}: {known[name]}." for name, names in by_method.items() if name in known]
    return [f"Known defects of the study. All rows: {known['']}.", *found]
