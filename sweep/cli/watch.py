"""A run as it goes: a progress bar with an estimate of the time left, or events as JSON lines."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sweep.cli.output import Output
from sweep.events import Event
from sweep.plan import Plan

# Rough shares of time by kind, to make the bar move evenly; only the look of the bar depends on them.
WEIGHTS = {"export": 1.0, "imatrix": 4.0, "quantize": 4.0, "speed": 1.0, "text": 4.0, "task": 2.0}


class Watch:
    """Called with each event of a run. A context manager: the bar ends with it."""

    def __init__(self, plan: Plan, output: Output) -> None:
        self._output = output
        self._kinds = {cell.label: cell.kind for cell in plan.cells}
        self._shares: dict[str, float] = {}
        self._progress = Progress(
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
        self._bar = self._progress.add_task("planning", total=sum(WEIGHTS[kind] for kind in self._kinds.values()))

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
        if event.event == "following":
            self._output.say("another process is at this run; following it")
        if event.event == "started":
            self._shares = {}
            self._progress.update(self._bar, total=sum(WEIGHTS[self._kinds[label]] for label in event.data["pending"]))
            done = event.data["cells"] - event.data["todo"]
            if done:
                self._output.say(f"{done} of {event.data['cells']} cells are known already")
        if event.cell is not None:
            self._cell(event)

    def _cell(self, event: Event) -> None:
        assert event.cell is not None
        if event.event == "cell_progress":
            self._shares[event.cell] = event.data["done"] / max(1, event.data["total"])
        elif event.event in ("cell_done", "cell_failed"):
            self._shares[event.cell] = 1.0
        else:
            self._shares.setdefault(event.cell, 0.0)
        if event.event == "cell_failed":
            self._output.say(f"{event.cell} failed: {event.data['error']}")
        elif event.event == "cell_done" and not self._output.shows_progress:
            self._output.say(f"{event.cell} {event.data['seconds']:.1f} s")
        completed = sum(share * WEIGHTS[self._kinds[label]] for label, share in self._shares.items())
        part = event.data.get("part", "")
        name = event.cell if part in ("", event.cell.partition("/")[2]) else f"{event.cell} ({part})"
        self._progress.update(self._bar, completed=completed, description=name)
