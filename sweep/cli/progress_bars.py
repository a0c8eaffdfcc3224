"""The progress bars of all commands. They are drawn on stderr, only for a person at a terminal, and leave no trace."""

from __future__ import annotations

from datetime import timedelta

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from sweep.cli.output import Output


class _TimeLeft(TimeRemainingColumn):
    """The time left. If the task has a field `left`, a function, it is the seconds that this returns."""

    def render(self, task: Task) -> Text:
        if "left" not in task.fields:
            return super().render(task)
        seconds = task.fields["left"]()
        return Text("-:--:--" if seconds is None else str(timedelta(seconds=round(seconds))), "progress.remaining")


def share_bar(output: Output) -> Progress:
    """A bar for work whose total is 1.0 or a count: percentage, elapsed time and estimated time left."""
    return _bar(output, TaskProgressColumn(), TimeElapsedColumn())


def bytes_bar(output: Output) -> Progress:
    """A bar for work that is counted in bytes: bytes done, bytes per second and estimated time left."""
    return _bar(output, DownloadColumn(binary_units=True), TransferSpeedColumn())


def _bar(output: Output, *amount: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description:32.36}"),
        BarColumn(),
        *amount,
        TextColumn("left"),
        _TimeLeft(),
        console=output.messages,
        transient=True,
        disable=not output.shows_progress,
    )
