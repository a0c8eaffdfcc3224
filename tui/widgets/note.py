"""A few lines of text that change; the layout is computed again only if the number of lines changes."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static


class Note(Static):
    """Shows `text`."""

    text = Text()

    def show(self, text: Text) -> None:
        """Show another text. Nothing is drawn if it looks the same."""
        before, self.text = self.text, text
        if (before, before.style) != (text, text.style):
            self.update(text, layout=self._lines(before) != self._lines(text))

    def _lines(self, text: Text) -> int:
        return len(text.wrap(self.app.console, max(self.content_size.width, 1)))
