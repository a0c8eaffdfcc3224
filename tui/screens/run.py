"""The Run screen: progress of a sweep, the result of each job, and the log of the highlighted job."""

from __future__ import annotations

import time
from collections import Counter
from threading import Event
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import get_current_worker

from converters.errors import InputError
from sweep import format as fmt
from sweep.commands.follow import Follower, Snapshot, log_of
from sweep.commands.launch import Command, Launch, remembered_command
from sweep.endings import Ending
from sweep.execution.control import request_cancel, request_pause, withdraw_pause
from sweep.results.cell_state import CellState
from tui.keymap import bind
from tui.screens.log import LogScreen, log_words
from tui.state.session import Session
from tui.theme import palette
from tui.widgets.job_table import SIGNS, JobTable, bar, ending_styles
from tui.widgets.key_bar import KeyBar
from tui.widgets.note import Note
from tui.widgets.text_pane import TextPane
from tui.widgets.top_bar import TopBar
from tui.workers import WorkerHost

LOOK_EVERY = 0.25  # seconds
BAR = 24  # characters of the progress bar, if there is room
SHORTEST = 6  # a shorter bar is left out


def _endings(found: Snapshot) -> dict[str, int]:
    """The numbers of cells without a whole result, by how they ended."""
    counts = Counter(cell.status for cell in found.progress.cells.values())
    return {ending: counts[ending] for ending in Ending if counts[ending]}


class RunScreen(WorkerHost, Screen[None]):
    """Follows the run of the session, whichever process runs it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("pause", "pause", "Pause", tooltip="Stop after the running job; press again to continue", show=True),
        bind("cancel", "cancel", "Cancel job", tooltip="Cancel the highlighted job if it is running", show=True),
        bind("run", "retry", "Retry", tooltip="Resume the run and retry jobs without a result", show=True),
        bind("log", "log", "Log", tooltip="The whole log of the highlighted job", show=True),
        bind("load", "runs", "Runs", tooltip="Watch another run", show=True),
        bind("follow", "follow", "Follow", tooltip="Keep the highlight on the running job"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.snapshot: Snapshot | None = None
        self._highlighted: str | None = None
        self._follows = True
        self._run: str | None = None
        self._watched: str | None = None  # the run whose end is announced
        self._retry_command: Command | None = None  # the command that runs again when the run is done
        self._awaited: Launch | None = None
        self._log: tuple[str | None, str] = (None, "")  # the label of a cell, and the end of its log
        self._look_now = Event()

    def compose(self) -> ComposeResult:
        yield TopBar("run")
        yield Static(id="notice", classes="hidden")
        with Vertical(id="body"):
            yield Note(id="state")
            yield JobTable(id="cells")
            yield Note(id="about")
            yield TextPane(id="log", can_focus=True)
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(JobTable).focus()
        self.app.theme_changed_signal.subscribe(self, lambda _: self.call_after_refresh(self._repaint))

    def _repaint(self) -> None:
        """Draw with the colours of another theme."""
        if self.snapshot is not None:
            log, self._log = self._log, (None, "")
            self.show(self.snapshot, log)

    def on_screen_resume(self) -> None:
        self.watch_run()

    # --- following --------------------------------------------------------------------------------------------------

    def watch_run(self, restart: bool = False) -> None:
        """Follow the run of the session, or the sweep that it has just started."""
        launch, run = self.session.launch, self.session.run_id
        if launch is not None:
            if not self._continues_with(launch):
                self.workers.cancel_group(self, "follow")
                self._show_notice("starting the sweep …")
            if launch is not self._awaited:
                self._awaited = launch
                self._await(launch)
        elif run is None:
            self._show_notice(f"{self.session.run_error or 'no run yet'}\n\n2: plan one   o: choose one")
        elif restart or run != self._run or self.snapshot is None:
            self._run, self._follows = run, True
            self._follow(run)

    def _continues_with(self, launch: Launch) -> bool:
        """Whether the shown run is running, and `launch` will retry its failed jobs when it is done."""
        return self.snapshot is not None and self.snapshot.is_running and launch.command == self._retry_command

    @work(thread=True, exit_on_error=False, exclusive=True, group="launch")
    def _await(self, launch: Launch) -> None:
        """Wait until the process reports its run."""
        worker = get_current_worker()
        while not worker.is_cancelled:
            try:
                run = launch.run()
            except InputError as error:
                self.deliver(self._not_started, str(error))
                return
            if run is not None:
                self.deliver(self._started, run)
                return
            time.sleep(LOOK_EVERY)

    def _not_started(self, message: str) -> None:
        launch, self.session.launch = self.session.launch, None
        if launch is not None and self._continues_with(launch):
            self.notify(message, severity="error", title="Retry")
        else:
            self.workers.cancel_group(self, "follow")
            self._show_notice(f"The sweep did not start: {message}\n\n2: back to its plan   o: other runs")

    def _started(self, run: str) -> None:
        self.session.launch, self.session.run_id = None, run
        self._watched = run  # it may end before it is looked at
        self.watch_run(restart=True)

    @work(thread=True, exit_on_error=False, exclusive=True, group="follow")
    def _follow(self, run: str) -> None:
        worker = get_current_worker()
        try:
            follower = Follower(self.session.workspace, run)
            while not worker.is_cancelled:
                self._look_now.clear()
                found, label = follower.look(), self._highlighted
                cell = next((cell for cell in found.cells if cell.label == label), None)
                words = "" if cell is None else log_words(log_of(follower.directory, cell), found.state_of(cell))
                self.deliver(self.show, found, (label, words))
                self._look_now.wait(LOOK_EVERY if found.is_running or found.died else 4 * LOOK_EVERY)
        except InputError as error:
            self.deliver(self._show_notice, str(error))

    # --- showing ----------------------------------------------------------------------------------------------------

    def _show_notice(self, message: str) -> None:
        """Show a message in place of a run. Keys do nothing then, and the run is followed again when it is chosen."""
        self.snapshot = None
        self.query_one("#notice", Static).remove_class("hidden").update(Text(fmt.plain(message)))
        self.query_one("#body").add_class("hidden")
        self.query_one(TopBar).show_path()

    def show(self, found: Snapshot, log: tuple[str | None, str]) -> None:
        """Show the state of a run, and the end of a cell's log."""
        self.snapshot = found
        self.query_one("#notice").add_class("hidden")
        self.query_one("#body").remove_class("hidden")
        cells = self.query_one(JobTable)
        cells.show(found.plan.cells, found.added, found.progress.cells, found.figures)
        at = found.progress.current
        if self._follows and at is not None and found.is_running and cells.label != at.label:
            cells.go_to_cell(at.label)
        self.query_one("#state", Note).show(self._state(found))
        self._show_cell(log)
        self.query_one(TopBar).show_path(found.plan.model, found.plan.run, fmt.plain(cells.label or ""))
        if found.is_running:
            self._watched = found.plan.run
        elif self._watched == found.plan.run:
            self._watched = None
            self._ended(found)

    def _ended(self, found: Snapshot) -> None:
        """Announce the end of a run, also if another screen is shown."""
        self.app.bell()
        endings = _endings(found)
        if found.died:
            self.notify("The process of the sweep died. R resumes it.", severity="error", title=found.plan.run)
        elif found.progress.status == "done":
            words = ", ".join(f"{count} {ending}" for ending, count in endings.items())
            rest = f"Jobs: {words}. R retries them." if endings else "4 shows the results."
            self.notify(rest, severity="warning" if endings else "information", title="The sweep is done")
        else:
            status = {"refused": "rejected"}.get(found.progress.status, found.progress.status)
            self.notify("R resumes it.", title=f"The sweep was {status}")

    def _state(self, found: Snapshot) -> Text:
        colours, progress = palette(self.app), found.progress
        words, style = self._status(found)
        line, rest = Text.assemble((f" {words}", style)), Text()
        if progress.status == "running":
            rest.append(f" {100 * progress.share:.0f} %", colours.ink)
            left = progress.seconds_left()
            rest.append("" if left is None or found.died else f"  {fmt.duration(left)} left", colours.soft)
        rest.append(f"  {self._jobs(found)}", colours.soft)
        for ending, count in _endings(found).items():
            rest.append(f"  {SIGNS[ending]} {count} {ending}", ending_styles(colours)[ending])
        room = min(BAR, self.size.width - line.cell_len - rest.cell_len - 3)
        if progress.status == "running" and room >= SHORTEST:
            line.append("  ").append(bar(progress.share, room, colours))
        line.append(rest)
        if found.is_running and found.resident_bytes is not None:
            line.append(f"\n worker memory now {fmt.size(found.resident_bytes)}", colours.soft)
            if found.predicted_bytes is not None:
                line.append(f"; {fmt.size(found.predicted_bytes)} predicted for model and context", colours.soft)
        elif progress.error:
            line.append(f"\n {fmt.plain(progress.error)}", colours.bad)
        else:
            line.append("\n")
        return line

    def _jobs(self, found: Snapshot) -> str:
        """How many jobs are done. While a run is running, those of earlier starts are counted separately, as in the
        share that is shown beside it."""
        progress = found.progress
        ended = sum(cell.has_ended for cell in progress.cells.values())
        known = len(progress.cells) - progress.todo
        if progress.status != "running" or not known:
            return f"{ended}/{len(progress.cells)} jobs"
        return f"{ended - known}/{progress.todo} jobs, {known} done before"

    def _status(self, found: Snapshot) -> tuple[str, Style]:
        colours, status = palette(self.app), found.progress.status
        if found.died:
            return "✗ its process died; R resumes it", colours.bad
        if status == "running":
            return ("▶ pausing after this job", colours.warn) if found.pausing else ("▶ running", colours.accent)
        table = {
            "done": ("✓ done", colours.good),
            "interrupted": ("∥ paused; p resumes it", colours.warn),
            "refused": ("✗ rejected", colours.bad),
        }
        return table.get(status, ("· not started here; R starts it", colours.soft))

    @on(JobTable.Highlighted, "#cells")
    def _moved(self) -> None:
        self._show_cell(self._log)

    def _show_cell(self, log: tuple[str | None, str]) -> None:
        """Show the highlighted cell and its log. If `log` is of another cell, the right one is read at once."""
        label, found = self.query_one(JobTable).label, self.snapshot
        if label != self._highlighted:
            self._highlighted = label
            self._look_now.set()
        if found is None or label is None or label not in found.progress.cells:
            return
        self.query_one("#about", Note).show(self._cell_line(found.progress.cells[label]))
        if log[0] != label:
            self._log = None, ""
            self.query_one(TextPane).show(Text())
        elif log != self._log:
            self._log = log
            self.query_one(TextPane).show(Text(log[1], palette(self.app).faint), at_end=True)

    def _cell_line(self, cell: CellState) -> Text:
        colours = palette(self.app)
        status = "known from an earlier run" if cell.status == "known" else cell.status
        line = Text.assemble((f" {fmt.plain(cell.label)}", colours.accent), (f"  {status}", colours.soft))
        if cell.status == "running" and cell.total:
            line.append(f"  {cell.done:,}/{cell.total:,}", colours.ink)
            line.append(f" {fmt.plain(cell.part)}" if cell.part else "", colours.soft)
            if cell.started is not None and 0.05 < cell.share < 1.0:
                left = (time.time() - cell.started) * (1 - cell.share) / cell.share
                line.append(f"  {fmt.duration(left)} left", colours.soft)
        if cell.seconds is not None:
            line.append(f"  {cell.seconds:.1f} s", colours.ink)
        if cell.error:
            line.append(f"  {fmt.plain(cell.error)}", colours.bad)
        if cell.status in tuple(Ending):
            line.append("  R retries it", colours.soft)
        return line

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_pause(self) -> None:
        found = self.snapshot
        if found is not None and found.progress.status == "interrupted" and self.session.launch is None:
            self._start_again(found)
            return
        if found is None or not found.is_running:
            self.notify("No sweep is running here.", title="Pause")
            return
        directory = self.session.workspace.run(found.plan.run)
        if found.pausing:
            withdraw_pause(directory)
            self.notify("The sweep continues.", title="Pause")
        else:
            request_pause(directory)
            self.notify("The sweep stops after the running job. p lets it continue.", title="Pause")

    def action_cancel(self) -> None:
        found, label = self.snapshot, self.query_one(JobTable).label
        if found is None or not found.is_running or label is None or found.progress.cells[label].status != "running":
            self.notify("Only a running job (▶) can be cancelled.", title="Cancel")
            return
        request_cancel(self.session.workspace.run(found.plan.run), label)
        self.notify(f"{label} is cancelled; the sweep continues with the next job.", title="Cancel")

    def action_retry(self) -> None:
        found = self.snapshot
        if found is None:
            return
        if found.progress.status == "done" and not _endings(found):
            self.notify("All jobs are done.", title="Retry")
            return
        self._start_again(found)

    def _start_again(self, found: Snapshot) -> None:
        """Start the run's own command."""
        try:
            command = remembered_command(self.session.workspace.run(found.plan.run))
            self.session.start_sweep(command)
        except InputError as error:
            self.notify(str(error), severity="error", title="Retry")
            return
        if found.is_running:
            self._retry_command = command
            self.notify("Jobs without a result are retried when the other jobs are done.", title="Retry")
        self.watch_run()

    def action_log(self) -> None:
        label, found = self.query_one(JobTable).label, self.snapshot
        cell = None if found is None else next((cell for cell in found.cells if cell.label == label), None)
        if found is not None and cell is not None:
            self.app.push_screen(
                LogScreen(found.progress.cells[cell.label], log_of(self.session.workspace.run(found.plan.run), cell))
            )

    @on(JobTable.Chosen, "#cells")
    def _open(self) -> None:
        self.action_log()

    def action_follow(self) -> None:
        self._follows = not self._follows
        self.notify("The highlight follows the running job." if self._follows else "The highlight stays.")

    def on_key(self, event: object) -> None:
        """Stop following the running job once the user moves the highlight."""
        if getattr(event, "key", "") in ("j", "k", "h", "l", "up", "down", "left", "right", "g", "G"):
            self._follows = False

    def action_runs(self) -> None:
        from tui.screens.runs import RunsScreen

        self.app.push_screen(RunsScreen(self.session.workspace), self._choose)

    def _choose(self, run: str | None) -> None:
        if run is not None:
            self.session.run_id = run
            self.watch_run()
