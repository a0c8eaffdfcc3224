"""The line below every screen: its keys, each with what it does."""

from __future__ import annotations

from textual.screen import Screen
from textual.widgets import Footer


class KeyBar(Footer):
    """Textual's, which makes a widget of each key, without making them anew for the same keys.

    It is told of bindings with every change of screen or focus. Most of these leave the keys as they are, and to make
    the widgets anew takes longer than all else that such a change brings about.
    """

    DEFAULT_CSS = "KeyBar { height: 1; background: $footer-background; }"

    def __init__(self) -> None:
        super().__init__(show_command_palette=False)
        self._known: list[tuple[str, str]] = []

    def bindings_changed(self, screen: Screen[object]) -> None:
        shown = [active.binding for active in screen.active_bindings.values() if active.binding.show]
        keys = [(binding.key, binding.description) for binding in shown]
        if screen is self.screen and keys != self._known:
            self._known = keys
            super().bindings_changed(screen)
