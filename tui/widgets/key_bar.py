"""The line below every screen: its keys, each with what it does.

Textual's Footer makes a widget of each key and makes all of them anew with every change of screen or focus, which took
longer than all else that such a key brings about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import RenderResult
from textual.events import Click, MouseMove
from textual.screen import Screen
from textual.widget import Widget


@dataclass(frozen=True)
class Key:
    """`shown` is how the key is written, `end` the column behind its words."""

    name: str
    shown: str
    words: str
    tooltip: str
    end: int


class KeyBar(Widget):
    """A click on a key presses it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"key-bar--key", "key-bar--words"}
    DEFAULT_CSS = """
    KeyBar {
        dock: bottom;
        height: 1;
        background: $footer-background;
        & > .key-bar--key { color: $footer-key-foreground; text-style: bold; }
        & > .key-bar--words { color: $footer-description-foreground; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Key] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._update)

    def _update(self, screen: Screen[object]) -> None:
        if screen is not self.screen:
            return
        keys: list[Key] = []
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and binding.action not in [screen.active_bindings[key.name].binding.action for key in keys]:
                shown = self.app.get_key_display(binding)
                end = (keys[-1].end if keys else 0) + len(shown) + len(binding.description) + 3
                keys.append(Key(binding.key, shown, binding.description, active.tooltip, end))
        if keys != self.keys:
            self.keys = keys
            self.refresh()

    def render(self) -> RenderResult:
        ink, soft = (self.get_component_rich_style(f"key-bar--{part}", partial=True) for part in ("key", "words"))
        line = Text(no_wrap=True, end="")
        for key in self.keys:
            line.append(f" {key.shown} ", ink).append(f"{key.words} ", soft)
        return line

    def _at(self, x: int) -> Key | None:
        return next((key for key in self.keys if x < key.end), None)

    def on_mouse_move(self, event: MouseMove) -> None:
        key = self._at(event.x)
        self.tooltip = key.tooltip if key is not None and key.tooltip else None

    def on_click(self, event: Click) -> None:
        key = self._at(event.x)
        if key is not None:
            self.app.simulate_key(key.name)
