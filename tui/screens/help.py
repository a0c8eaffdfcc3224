"""The help window: the keys, signs and words of a screen."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text
from textual.screen import Screen

from tui.glossary import GLOSSARY
from tui.keymap import KEYMAP, all_keys_of
from tui.screens.legend import SIGNS, TERMS
from tui.screens.pager import PagerScreen
from tui.theme import palette

# Keys that are the same on every screen, by their names in the keymap
EVERYWHERE = (
    "down", "up", "first", "last", "page-down", "page-up", "left", "right", "go-fit", "go-plan", "go-run", "go-results",
    "help", "quit",
)  # fmt: skip
OTHERS = (("tab", "go to the next part of the screen"), ("ctrl+p", "all commands by name, and the themes"))


class HelpScreen(PagerScreen):
    """`of` is the screen whose keys are shown, and `mode` the name of the screen whose signs and words are."""

    def __init__(self, of: Screen[object], mode: str) -> None:
        super().__init__("Help", Text())
        self._of, self._mode = of, mode

    def on_mount(self) -> None:
        everywhere = [(all_keys_of(name), KEYMAP[name].meaning) for name in EVERYWHERE]
        words = [(term, GLOSSARY[term]) for term in TERMS.get(self._mode, ())]
        colours = palette(self.app)
        page = Table.grid(padding=(0, 2, 0, 0))
        for title, lines in (
            ("Keys of this screen", self._own()),
            ("Signs", SIGNS.get(self._mode, ())),
            ("Keys of every screen", (*everywhere, *OTHERS)),
            ("Words", words),
        ):
            page.add_row(Text(title, colours.accent))
            for name, meaning in lines:
                page.add_row(Text(name, colours.accent), Text(meaning, colours.ink))
            page.add_row()
        self.replace(page)

    def _own(self) -> list[tuple[str, str]]:
        found: dict[str, str] = {}  # by what a key does
        for active in self._of.active_bindings.values():
            binding = active.binding
            if active.node is self._of and binding.id in KEYMAP:  # else Textual's own
                words = f"{binding.description}: {binding.tooltip}" if binding.tooltip else binding.description
                found.setdefault(words, all_keys_of(binding.id))
        return [(keys, words) for words, keys in found.items()]
