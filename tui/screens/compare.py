"""Two variants compared: differences with intervals, p values and flips, as in `sweep compare`."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text
from textual import work

from converters.errors import InputError
from sweep import format as fmt
from sweep.workspace import Workspace
from tui.screens.pager import PagerScreen
from tui.theme import palette


class CompareScreen(PagerScreen):
    """Compares `first` and `second`, both given as RUN:VARIANT."""

    def __init__(self, workspace: Workspace, first: str, second: str) -> None:
        super().__init__("Compare", Text("comparing …"))
        self._workspace, self._names = workspace, (first, second)

    def on_mount(self) -> None:
        self.call_after_refresh(self._begin)  # once the width is known

    def _begin(self) -> None:
        page = self.query_one("#page")
        self._compare(page.size.width - page.styles.scrollbar_size_vertical)

    @work(thread=True, exit_on_error=False, exclusive=True)
    def _compare(self, width: int) -> None:
        from sweep.analysis.compare import compare
        from sweep.report.comparison import render_comparison

        shown: RenderableType
        try:
            shown = render_comparison(compare(self._workspace, *self._names), width)
        except InputError as error:
            shown = Text(fmt.plain(error), palette(self.app).bad)
        self.deliver(self.replace, shown)
