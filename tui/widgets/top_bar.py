"""The line above every screen: the names of the screens, and the current model, run and variant."""

from __future__ import annotations

from rich.text import Text
from textual.app import RenderResult
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

from tui.theme import palette

SCREENS = (("fit", "Fit"), ("plan", "Plan"), ("run", "Run"), ("results", "Results"))


class TopBar(Widget):
    """`path` has the breadcrumbs: model, run, variant. A click on the name of a screen opens it."""

    class Chosen(Message):
        """The name of a screen was clicked."""

        def __init__(self, mode: str) -> None:
            self.mode = mode
            super().__init__()

    def __init__(self, here: str) -> None:
        super().__init__()
        self._here = here
        self._path: tuple[str, ...] = ()
        self._ends: list[tuple[int, str]] = []

    def show_path(self, *path: str | None) -> None:
        """Show these breadcrumbs, without those that are None or empty."""
        parts = tuple(part for part in path if part)
        if parts != self._path:
            self._path = parts
            self.refresh()

    @property
    def path(self) -> tuple[str, ...]:
        return self._path

    def render(self) -> RenderResult:
        colours = palette(self.app)
        line = Text(no_wrap=True, end="")
        line.append(" sweep ", colours.accent)
        self._ends = []
        for number, (mode, name) in enumerate(SCREENS, 1):
            label = f" {number} {name} "
            if mode == self._here:
                line.append(f"[{label.strip()}]", colours.ink)
            else:
                line.append(label, colours.soft)
            self._ends.append((len(line), mode))
        room = self.size.width - len(line) - 2
        crumbs = self._crumbs(room)
        line.append(" " * max(self.size.width - len(line) - len(crumbs) - 1, 1))
        line.append(crumbs, colours.soft)
        return line

    def _crumbs(self, room: int) -> str:
        """As many breadcrumbs as there is room for: all, the first and the last, or the end of the first."""
        for parts in (self._path, (*self._path[:1], *self._path[-1:]), self._path[:1]):
            crumbs = " › ".join(parts)
            if len(crumbs) <= room:
                return crumbs
        return f"…{crumbs[len(crumbs) - room + 1 :]}" if room > 8 else ""

    def on_click(self, event: Click) -> None:
        for end, mode in self._ends:
            if event.x < end:
                self.post_message(self.Chosen(mode))
                return
