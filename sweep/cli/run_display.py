"""Shows a run while it happens: a progress bar with the time left, or events as JSON lines."""

from __future__ import annotations

from types import TracebackType

from sweep.cli.output import Output
from sweep.cli.progress_bars import share_bar
from sweep.commands.prediction import effort_words, precision_words, time_words
from sweep.endings import EVENTS
from sweep.events import Event
from sweep.planning.prepare import Sweep
from sweep.results.later_cells import possible_cells
from sweep.results.plan import Plan
from sweep.results.progress import RunProgress


class RunDisplay:
    """A context manager that is called with each event of a run. The progress bar is removed at the end.

    `model` is named in every line, if the run is one of several.
    """

    def __init__(self, plan: Plan, output: Output, model: str = "") -> None:
        self._output = output
        self._prefix = f"{model}: " if model else ""
        self._run = RunProgress.of(plan.cells, possible_cells(plan))
        self._bar = share_bar(output)
        self._task = self._bar.add_task("planning", total=1.0, left=self._run.seconds_left)

    def __enter__(self) -> RunDisplay:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if self._output.is_json:
            if event.event != "done":  # the last line is "finished", which has the records
                self._output.line({"event": event.event, "cell": event.cell, **event.data})
            return
        self._run.update(event)
        if event.event == "following":
            self._output.say(f"{self._prefix}another process is already doing this run; its progress is shown here")
        if event.event == "started":
            say_what_is_stored(event, self._output, self._prefix)
        if event.cell is not None:
            self._show_job(event, event.cell)

    def _show_job(self, event: Event, name: str) -> None:
        if event.event in EVENTS:
            self._output.say(f"{self._prefix}{name} {EVENTS[event.event]}: {event.data['error']}")
        elif event.event == "cell_done" and "same_as" not in event.data and not self._output.shows_progress:
            self._output.say(f"{self._prefix}{name} {event.data['seconds']:.1f} s")
        part = event.data.get("part", "")
        description = name if part in ("", name.partition("/")[2]) else f"{name} ({part})"
        self._bar.update(self._task, completed=self._run.share, description=self._prefix + description)


def say_what_is_stored(started: Event, output: Output, prefix: str = "") -> None:
    """Say how many jobs have a stored result, from the event `started`."""
    total, done = started.data["cells"], started.data["cells"] - started.data["todo"]
    if done:
        output.say(f"{prefix}{done} of {total} jobs are done already; their stored results are used")


def say_effort(sweep: Sweep, output: Output) -> None:
    """Say how much is measured if it is not everything by default: of texts, and, if a level of effort was chosen, what
    it means and how long the run will take."""
    words = None if sweep.precision.is_full else precision_words(sweep)
    if words is not None:
        output.say(words)
    if sweep.request.effort is not None:
        for line in (effort_words(sweep), time_words(sweep)):
            if line is not None:
                output.say(line)
