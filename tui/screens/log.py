"""A window with the log of a job."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text
from textual import work

from sweep.commands.follow import tail
from tui.screens.pager import PagerScreen

NO_LOG = "no log output"


class LogScreen(PagerScreen):
    """Shows the end of a log file."""

    def __init__(self, label: str, file: Path) -> None:
        super().__init__(f"Log of {label}", Text("reading …"))
        self._file = file

    def on_mount(self) -> None:
        self._read()

    @work(thread=True, exit_on_error=False)
    def _read(self) -> None:
        self.deliver(self.replace, Text(tail(self._file) or NO_LOG))
