"""How much a sweep will measure, and how long that will take, as lines for people."""

from __future__ import annotations

from sweep.execution.cells_to_run import cells_to_run
from sweep.format import duration
from sweep.jobs.registry import SPEED
from sweep.jobs.text import share_of_text
from sweep.planning.effort import Effort
from sweep.planning.prepare import Sweep
from sweep.results.estimate import predicted_seconds, rough_seconds, total
from sweep.results.store import Store


def time_words(sweep: Sweep) -> str | None:
    """The predicted time of the jobs to do; None if there are none."""
    with Store(sweep.workspace.database) as store:
        todo = cells_to_run(sweep.plan.cells, store, sweep.workspace.root)
        if not todo:
            return None
        labels = [cell.label for cell in todo]
        own = total(predicted_seconds(sweep.plan, store), labels)
        if own is not None:
            return f"Estimated time: {duration(own)}, from earlier runs of this model."
        rough = total(rough_seconds(sweep.plan, store), labels)
    if rough is not None:
        return f"Estimated time: roughly {duration(rough)}, from runs of other models and the numbers of weights."
    return (
        "The time cannot be estimated before it starts, because this workspace has no run of a similar model with the "
        "same measurements."
    )


def precision_words(sweep: Sweep) -> str | None:
    """How much of its texts and tasks a sweep measures; None if it measures none."""
    if sweep.text is None and not sweep.inputs.tasks:
        return None
    rounds = "" if sweep.precision.is_full else "; --precision full measures all windows and items"
    return f"Precision: {sweep.precision}{rounds}."


def effort_words(sweep: Sweep) -> str | None:
    """What a level of effort means for this sweep; None for the normal one."""
    effort, windows = sweep.request.effort, sweep.inputs.windows
    if effort in (None, Effort.NORMAL):
        return None
    tasks = dict.fromkeys(task.options.limit for task in sweep.inputs.tasks)
    parts = [f"tasks: {', '.join('all items' if one is None else f'first {one} items' for one in tasks)}"] * bool(tasks)
    if sweep.text is not None:
        window = sweep.plan.settings.window
        shares = [share_of_text(one.file, windows, window) for one in (sweep.text, *sweep.other_texts)]
        part = "" if windows is None else f"the first {windows} windows"
        whole = all(share == 1.0 for share in shares)
        parts.append(f"text: {'all of it' if whole else part}")
    if not sweep.inputs.measure or SPEED in sweep.inputs.measure:
        parts.append(f"speed: {sweep.inputs.speed_seconds:g} s")
    return f"Effort {effort}: {'; '.join(parts)}."
