"""The help window: the keys of a screen."""

from __future__ import annotations

from rich.text import Text
from textual.screen import Screen

from tui.screens.pager import PagerScreen
from tui.theme import palette

MOVING = (
    ("1 2 3 4", "go to Fit, Plan, Run, Results"),
    ("j k g G", "down, up, first and last row; arrows work too"),
    ("tab", "go to the next part of the screen"),
    ("ctrl+p", "all commands by name, and the themes"),
    ("q", "quit; a running sweep can continue without the screen"),
)


class HelpScreen(PagerScreen):
    """`of` is the screen whose keys are shown."""

    def __init__(self, of: Screen[object]) -> None:
        super().__init__("Help", Text())
        self._of = of

    def on_mount(self) -> None:
        colours = palette(self.app)
        lines = [Text("On this screen", colours.accent)]
        for binding in self._own():
            lines.append(self._line(*binding))
        lines += [Text(), Text("Everywhere", colours.accent)]
        lines += [self._line(key, words) for key, words in MOVING]
        self.replace(Text("\n").join(lines))

    def _own(self) -> list[tuple[str, str]]:
        found: dict[str, str] = {}
        for active in self._of.active_bindings.values():
            if active.node is self._of and active.binding.description:
                key = self.app.get_key_display(active.binding)
                binding = active.binding
                found.setdefault(
                    f"{binding.description}: {binding.tooltip}" if binding.tooltip else binding.description, key
                )
        return [(key, words) for words, key in found.items()]

    def _line(self, key: str, words: str) -> Text:
        colours = palette(self.app)
        return Text.assemble((f"{key:<10}", colours.accent), (words, colours.ink))
