"""A window to type a line of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.widgets import Input, Static

from converters.errors import InputError
from sweep import format as fmt
from tui.screens.window import Window
from tui.theme import palette
from tui.widgets.note import Note
from tui.widgets.path_input import PathInput


class PromptScreen(Window[Any]):
    """Returns what `read` makes of the text. If `read` raises InputError, the window shows the message and keeps the
    text.

    The second argument of `read` says whether enter was pressed again on a text that was rejected, which confirms it.
    Paths are completed: those of files with these `endings`, after one of `prefixes` if there are any.
    """

    def __init__(
        self,
        title: str,
        words: str,
        value: str,
        read: Callable[[str, bool], Any],
        endings: Sequence[str],
        prefixes: Sequence[str] = (),
    ) -> None:
        super().__init__(title, "tab complete a path · enter accept · esc close")
        self._words, self._value, self._read = words, value, read
        self._endings, self._prefixes = endings, prefixes
        self._rejected: str | None = None

    def content(self) -> ComposeResult:
        yield Static(self._words, classes="words", markup=False)
        yield PathInput(self._value, endings=self._endings, prefixes=self._prefixes, id="line", compact=True)
        yield Note(id="message", classes="words")

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        typed = message.value.strip()
        if not typed:
            self.dismiss(None)
            return
        try:
            found = self._read(typed, typed == self._rejected)
        except InputError as error:
            self._rejected = typed
            self.query_one(Note).show(Text(f"✗ {fmt.plain(error)}", palette(self.app).bad))
            return
        self.dismiss(found)
