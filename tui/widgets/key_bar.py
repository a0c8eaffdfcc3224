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

    Only whole keys are shown: the first ones that fit, which are the most important ones, and the keys for help and to
    quit.
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
        room, shown = self.app.size.width, []
        last = [key for key in keys if key.key in _ALWAYS]
        for key in (*last, *(key for key in keys if key not in last)):
            room -= _width(key)
            if room < 0:
                break
            shown.append(key)
        for key in keys:
            key.display = key in shown


_ALWAYS = (KEYMAP["help"].keys, KEYMAP["quit"].keys)


def _width(key: Any) -> int:
    return cell_len(key.key_display) + cell_len(key.description) + _SPACES
