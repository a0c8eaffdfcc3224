"""An input for a path, which completes what is typed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from textual.binding import BindingType
from textual.suggester import Suggester
from textual.widgets import Input

from tui.keymap import bind
from tui.state.paths import common_start, completions

ANY_FILE = ("",)


class PathInput(Input):
    """Shows the first path that begins with the text; `right` takes it, `tab` what all such paths have in common.

    `endings` are those of the files that are looked for, besides directories. A path may follow one of `prefixes`.
    """

    BINDINGS: ClassVar[list[BindingType]] = [bind("complete", "complete")]

    def __init__(self, value: str = "", *, endings: Sequence[str], prefixes: Sequence[str] = (), **more: Any) -> None:
        self._paths = _Paths(endings, prefixes)
        super().__init__(value, suggester=self._paths, **more)

    def action_complete(self) -> None:
        """Complete the path; if there is nothing to add, go to the next part."""
        longer = common_start(self._paths.beginning_with(self.value))
        if len(longer) > len(self.value):
            self.value = longer
            self.cursor_position = len(longer)
        else:
            self.screen.focus_next()


class _Paths(Suggester):
    def __init__(self, endings: Sequence[str], prefixes: Sequence[str]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)  # files come and go
        self._endings, self._prefixes = endings, prefixes

    def beginning_with(self, text: str) -> list[str]:
        """The paths that begin with this text, as it is written."""
        prefix = next((prefix for prefix in self._prefixes if text.startswith(prefix)), "")
        typed = text.removeprefix(prefix)
        if not typed or (self._prefixes and not prefix):
            return []
        return [prefix + name for name, _ in completions(typed, self._endings)]

    async def get_suggestion(self, value: str) -> str | None:
        found = await asyncio.to_thread(self.beginning_with, value)  # a directory can be large or far away
        return next((name for name in found if name != value), None)
