"""A run as it goes: a progress bar with an estimate of the time left, or events as JSON lines."""

from __future__ import annotations

from types import TracebackType

from rich import progress
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sweep.cli.output import Output
from sweep.events import Event
from sweep.results.plan import Plan
from sweep.results.progress import RunProgress


class Watch:
    """Called with each event of a run. A context manager: the bar ends with it."""

    def __init__(self, plan: Plan, output: Output) -> None:
        self._output = output
        self._run = RunProgress.of(plan.cells)
        self._progress = progress.Progress(
            TextColumn("{task.description:32}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=output.messages,
            transient=True,
            disable=not output.shows_progress,
        )
        self._bar = self._progress.add_task("planning", total=1.0)

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if self._output.is_json:
            if event.event != "done":  # `finished` with the records is the last line
                self._output.line({"event": event.event, "cell": event.cell, **event.data})
            return
        self._run.update(event)
        if event.event == "following":
            self._output.say("another process is at this run; following it")
        if event.event == "started":
            done = event.data["cells"] - event.data["todo"]
            if done:
                self._output.say(f"{done} of {event.data['cells']} cells are known already")
        if event.cell is not None:
            self._cell(event)

    def _cell(self, event: Event) -> None:
        assert event.cell is not None
        if event.event == "cell_failed":
            self._output.say(f"{event.cell} failed: {event.data['error']}")
        elif event.event == "cell_done" and not self._output.shows_progress:
            self._output.say(f"{event.cell} {event.data['seconds']:.1f} s")
        part = event.data.get("part", "")
        name = event.cell if part in ("", event.cell.partition("/")[2]) else f"{event.cell} ({part})"
        self._progress.update(self._bar, completed=self._run.share, description=name)
