"""A window with the log of a job."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text
from textual import work

from sweep.commands.follow import tail
from sweep.endings import Ending
from sweep.results.cell_state import CellState
from tui.screens.pager import PagerScreen

NOT_RUN = {
    "waiting": "not started yet",
    Ending.SKIPPED: "not run, so there is no log",
}
NO_LOG = "no log output"
NO_LOG_OF_KNOWN = "no log here: another run did this job"


def log_words(file: Path, cell: CellState) -> str:
    """The end of a cell's log, or why there is none. A cell that has not started may have a log of an earlier try."""
    if cell.started is None and cell.status in NOT_RUN:
        return NOT_RUN[cell.status]
    return tail(file) or (NO_LOG_OF_KNOWN if cell.status == "known" else NO_LOG)


class LogScreen(PagerScreen):
    """Shows the end of a log file."""

    def __init__(self, cell: CellState, file: Path) -> None:
        super().__init__(f"Log of {cell.label}", Text("reading …"))
        self._cell, self._file = cell, file

    def on_mount(self) -> None:
        self._read()

    @work(thread=True, exit_on_error=False)
    def _read(self) -> None:
        self.deliver(self.replace, Text(log_words(self._file, self._cell)))
