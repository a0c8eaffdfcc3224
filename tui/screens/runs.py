"""A window to search and choose a run of the workspace."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Input

from converters.errors import InputError
from sweep import format as fmt
from sweep.results.history import PastRun, UnreadableRun, all_runs
from sweep.workspace import Workspace
from tui.keymap import bind
from tui.screens.window import Window
from tui.state.matching import Choice, meant
from tui.theme import palette
from tui.widgets.note import Note
from tui.widgets.table import Table

MOST = 200  # rows that are shown; older runs are found by typing a part of their name
HEADS = (("run", True), ("started", True), ("done", False), ("failed", False), ("others", True), ("variants", True))


class RunsScreen(Window[str | None]):
    """Returns the id of a run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("filter", "search", "Search"),
        bind("down", "to_table", "To the list"),
    ]

    def __init__(self, workspace: Workspace) -> None:
        super().__init__("Runs", "type to search · enter choose · esc close")
        self._workspace = workspace
        self._runs: list[PastRun] = []
        self._unreadable: list[UnreadableRun] = []

    def content(self) -> ComposeResult:
        yield Input(placeholder="part of a run's id, model or variants", id="search", compact=True)
        yield Note("reading …", id="message", classes="words")
        yield Table(id="runs")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._read()

    @work(thread=True, exit_on_error=False, exclusive=True)
    def _read(self) -> None:
        try:
            found: list[PastRun | UnreadableRun] | str = []
            if self._workspace.database.is_file():
                found = all_runs(self._workspace)
        except InputError as error:
            found = str(error)
        self.deliver(self.show, found)

    def show(self, found: list[PastRun | UnreadableRun] | str) -> None:
        """Show the runs, or the message if they cannot be read."""
        if isinstance(found, str):
            self.query_one(Note).show(Text(fmt.plain(found), palette(self.app).bad))
            return
        self._runs = [run for run in found if isinstance(run, PastRun)]
        self._unreadable = [run for run in found if isinstance(run, UnreadableRun)]
        self.fill()

    def _matching(self) -> list[Choice]:
        """The runs that match the search: their ids, and what else is searched. The latest first."""
        words = self._typed.lower().split()
        found = [(run.plan.run, f"{run.plan.model} {' '.join(run.plan.variants)}") for run in self._runs]
        return [choice for choice in found if all(word in " ".join(choice).lower() for word in words)]

    @property
    def _typed(self) -> str:
        return self.query_one("#search", Input).value.strip()

    def fill(self) -> None:
        """Show the runs that match the search."""
        colours, rows = palette(self.app), []
        ids = {name for name, _ in self._matching()}
        matching = [run for run in self._runs if run.plan.run in ids]
        for run in matching[:MOST]:
            plan = run.plan
            state = f"{run.done}/{len(plan.cells)}"
            cells = [
                Text(fmt.plain(plan.run), colours.ink),
                Text(datetime.fromtimestamp(run.created).strftime("%Y-%m-%d %H:%M"), colours.soft),
                Text(state, colours.ink if run.done == len(plan.cells) else colours.warn),
                Text(f"{fmt.STATUS_SIGNS['failed']} {run.failed}" if run.failed else fmt.MISSING, colours.soft),
                Text(run.others or fmt.MISSING, colours.soft),
                Text(fmt.shorten(fmt.plain(" ".join(plan.variants)), 40), colours.soft),
            ]
            rows.append((plan.run, cells))
        self.query_one(Table).fill(HEADS, rows, room=min(len(self._runs), MOST))
        summary = f"{len(matching)} of {len(self._runs)} runs" if self._runs else "no run yet; press 2 to plan one"
        summary += f", the latest {MOST} shown" if len(matching) > MOST else ""
        note = Text(summary, colours.soft)
        for unreadable in self._unreadable:
            note.append(f"\n{fmt.plain(unreadable.message)}", colours.bad)
        self.query_one(Note).show(note)

    @on(Input.Changed)
    def _search(self) -> None:
        self.fill()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        """Choose the run that is meant; without a text, the latest. If several can be meant, go to the list."""
        table, typed = self.query_one(Table), self._typed
        chosen = meant(typed, self._matching()) if typed else table.highlighted
        if chosen is not None:
            self.dismiss(chosen)
        elif table.row_count:
            table.focus()

    @on(Table.Chosen)
    def _selected(self) -> None:
        self.dismiss(self.query_one(Table).highlighted)

    def action_search(self) -> None:
        self.query_one(Input).focus()

    def action_to_table(self) -> None:
        self.query_one(Table).focus()
