"""Windows to choose from a list or to type a value: a model, a preset, a GPU, a file name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Input, Static

from tui.keymap import bind
from tui.screens.window import Window
from tui.theme import palette
from tui.widgets.note import Note
from tui.widgets.table import Table

HEADS = (("", True), ("", True))


class PickerScreen(Window[str | None]):
    """Returns the name of a choice, or the typed text if no choice matches it.

    `choices` are pairs (name, description). Only choices that contain every typed word are shown. `words` is the
    placeholder of the input, `now` the choice that is highlighted first.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("down", "to_list", "To the list"),
        bind("filter", "search", "Search"),
    ]

    def __init__(self, title: str, choices: Sequence[tuple[str, str]], words: str, now: str = "") -> None:
        super().__init__(title, "type to search, or ↓ to choose · enter accept · esc close")
        self._choices, self._words, self._now = choices, words, now

    def content(self) -> ComposeResult:
        yield Input(placeholder=self._words, id="search", compact=True)
        yield Note(id="message", classes="words")
        yield Table(show_head=False, id="choices")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._fill()
        self.query_one(Table).go_to(self._now)

    @on(Input.Changed)
    def _fill(self) -> None:
        words = self.query_one(Input).value.lower().split()
        colours = palette(self.app)
        found = [(name, about) for name, about in self._choices if all(w in f"{name} {about}".lower() for w in words)]
        rows = [(name, [Text(name, colours.ink), Text(about, colours.soft)]) for name, about in found]
        self.query_one(Table).fill(HEADS, rows, room=len(self._choices))
        typed = self.query_one(Input).value.strip()
        note = f"enter uses “{typed}” as typed" if typed and not found else f"{len(found)} to choose from"
        self.query_one(Note).show(Text(note, colours.faint))

    @on(Input.Submitted)
    def _submitted(self) -> None:
        typed, found = self.query_one(Input).value.strip(), self.query_one(Table).highlighted
        exact = typed in {name for name, _ in self._choices}
        self.dismiss(typed if exact or (typed and found is None) else found)

    @on(Table.Chosen)
    def _selected(self) -> None:
        self.dismiss(self.query_one(Table).highlighted)

    def action_to_list(self) -> None:
        self.query_one(Table).focus()

    def action_search(self) -> None:
        self.query_one(Input).focus()


class PromptScreen(Window[str | None]):
    """Returns a line of text."""

    def __init__(self, title: str, words: str, value: str = "") -> None:
        super().__init__(title, "enter accept · esc close")
        self._words, self._value = words, value

    def content(self) -> ComposeResult:
        yield Static(self._words, classes="words")
        yield Input(self._value, id="line", compact=True)

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        self.dismiss(message.value.strip() or None)


def model_choices() -> list[tuple[str, str]]:
    """The built-in models, and the models whose sizes are known."""
    import presets
    from presets import catalogue

    found = [(name, f"built in: {model.title}") for name, model in presets.builtin_models().items()]
    return found + [
        (entry.name, "sizes only; to sweep it, give its directory") for entry in catalogue.models().values()
    ]


def gpu_choices() -> list[tuple[str, str]]:
    """This machine's devices, and all known GPUs."""
    from presets.gpus import gpus

    found = [("this machine", "the devices of this machine, with the memory that is free now")]
    for gpu in gpus().values():
        about = f"{gpu.memory_bytes / (1 << 30):g} GiB, {gpu.bandwidth / 1e9:,.0f} GB/s, {gpu.series}"
        found.append((gpu.name, about))
    return found
