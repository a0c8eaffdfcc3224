"""A few lines of text that come and go; their place is laid out anew only where there are more or fewer of them."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static


class Note(Static):
    """Shows `text`."""

    text = Text()

    def show(self, text: Text) -> None:
        """Something else; nothing is drawn where it looks the same."""
        before, self.text = self.text, text
        if (before, before.style) != (text, text.style):
            self.update(text, layout=self._lines(before) != self._lines(text))

    def _lines(self, text: Text) -> int:
        return len(text.wrap(self.app.console, max(self.content_size.width, 1)))
