"""The line below every screen: its keys and what they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer

from tui.keymap import KEYMAP

_SPACES = 3  # around the key and after its description, as Footer draws them


class KeyBar(Footer):
    """Textual's Footer, which has a widget for each key, but it builds the widgets again only if the keys changed.

    It is notified of bindings at every change of screen or focus. Most changes leave the keys as they are, and building
    the widgets takes longer than everything else that such a change causes.

    Only whole keys are shown: the first ones that fit, which are the most important ones, and the key for help.
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

    def compose(self) -> ComposeResult:
        keys = list(super().compose())
        self._fit(keys)
        yield from keys

    def on_resize(self) -> None:
        self._fit(self.children)

    def _fit(self, keys: Sequence[Any]) -> None:
        """Show the keys that fit. `keys` are FooterKeys, which Textual does not export."""
        room = self.app.size.width - sum(_width(key) for key in keys if _is_help(key))
        fits = True
        for key in keys:
            if not _is_help(key):
                room -= _width(key)
                fits = fits and room >= 0
            key.display = fits or _is_help(key)


def _is_help(key: Any) -> bool:
    return key.key == KEYMAP["help"].keys


def _width(key: Any) -> int:
    return cell_len(key.key_display) + cell_len(key.description) + _SPACES
