"""The line below every screen: its keys and what they do."""

from __future__ import annotations

from textual.screen import Screen
from textual.widgets import Footer


class KeyBar(Footer):
    """Textual's Footer, which has a widget for each key, but it builds the widgets again only if the keys changed.

    It is notified of bindings at every change of screen or focus. Most changes leave the keys as they are, and building
    the widgets takes longer than everything else that such a change causes.
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
