"""Windows to choose from a list or to type a value: a model, a preset, a GPU, a file name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Input

from converters.errors import InputError
from sweep import format as fmt
from tui.keymap import bind
from tui.screens.window import Window
from tui.state.matching import Choice, equal, meant, ranked
from tui.state.paths import common_start, completions, is_path
from tui.theme import palette
from tui.widgets.note import Note
from tui.widgets.table import Table

HEADS = (("", True), ("", True))
MODEL_FILES = (".gguf", ".json")
THIS_MACHINE = "this machine"


class PickerScreen(Window[str | None]):
    """Returns the name of a choice, or a typed value.

    `choices` are pairs (name, description), of which those with every typed word are shown, the likeliest first.
    `words` is the placeholder of the input, `now` the choice that is highlighted first. `read` returns the value that a
    typed text is by itself, or raises InputError. `paths`: the endings of files that a typed path can be completed to.

    Enter in the input takes the choice with exactly this name, else the value that the text is, else the likeliest
    choice. If several are as likely, the focus goes to the list and nothing is chosen. A text that is nothing of these
    stays in the input, with the message.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("down", "to_list", "To the list"),
        bind("filter", "search", "Search"),
        replace(bind("complete", "complete"), priority=True),
    ]

    def __init__(
        self,
        title: str,
        choices: Sequence[Choice],
        words: str,
        now: str = "",
        read: Callable[[str], str] = str,
        paths: Sequence[str] = (),
    ) -> None:
        hint = "type to search, or ↓ to choose · tab complete a path" if paths else "type to search, or ↓ to choose"
        super().__init__(title, f"{hint} · enter accept · esc close")
        self._choices, self._words, self._now, self._read, self._paths = choices, words, now, read, paths

    def content(self) -> ComposeResult:
        yield Input(placeholder=self._words, id="search", compact=True)
        yield Note(id="message", classes="words")
        yield Table(show_head=False, id="choices")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._fill()
        self.query_one(Table).go_to(self._now)

    @property
    def _typed(self) -> str:
        return self.query_one(Input).value.strip()

    def _found(self) -> list[Choice]:
        """The choices that match what is typed."""
        typed = self._typed
        if self._paths and is_path(typed):
            return completions(typed, self._paths)
        return ranked(typed, self._choices) if typed else list(self._choices)

    @on(Input.Changed)
    def _fill(self) -> None:
        colours, found = palette(self.app), self._found()
        rows = [(name, [Text(fmt.plain(name), colours.ink), Text(about, colours.soft)]) for name, about in found]
        self.query_one(Table).fill(HEADS, rows, found[0][0] if self._typed and found else None, room=len(self._choices))
        self.query_one(Note).show(Text(self._promise(found), colours.faint))

    def _promise(self, found: Sequence[Choice]) -> str:
        """What enter will do."""
        if not self._typed:
            return f"{len(found)} to choose from"
        value, _ = self._value(found)
        if value is not None:
            return f"enter uses {fmt.plain(value)}"
        return f"{len(found)} match; type more, or ↓ to choose" if found else "nothing matches"

    def _value(self, found: Sequence[Choice]) -> tuple[str | None, str]:
        """What the typed text means, or None and the reason."""
        name = equal(self._typed, found)
        if name is not None:
            return name, ""
        try:
            return self._read(self._typed), ""
        except InputError as error:
            return meant(self._typed, found), str(error)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        if not self._typed:
            self.dismiss(self.query_one(Table).highlighted)
            return
        found = self._found()
        value, why = self._value(found)
        if value is not None:
            self.dismiss(value)
        elif found:
            self.query_one(Table).focus()
            note = f"{len(found)} match “{self._typed}”; choose one with ↑ ↓ and enter, or / to type more"
            self.query_one(Note).show(Text(note, palette(self.app).warn))
        else:
            self.query_one(Note).show(Text(f"✗ {fmt.plain(why)}", palette(self.app).bad))

    @on(Table.Chosen)
    def _selected(self) -> None:
        name = self.query_one(Table).highlighted
        if name is not None and self._paths and name.endswith("/"):
            self._write(name)  # a directory without a model: go on inside it
        else:
            self.dismiss(name)

    def _write(self, text: str) -> None:
        line = self.query_one(Input)
        line.value, line.cursor_position = text, len(text)
        line.focus()

    def action_complete(self) -> None:
        """Complete a path; otherwise go to the next widget."""
        if self._paths and is_path(self._typed) and self.query_one(Input).has_focus:
            names = [name for name, _ in self._found()]
            if names:
                self._write(common_start(names))
        else:
            self.focus_next()

    def action_to_list(self) -> None:
        self.query_one(Table).focus()

    def action_search(self) -> None:
        self.query_one(Input).focus()


def model_picker(words: str, now: str, recent: Sequence[str] = ()) -> PickerScreen:
    """A window to choose a model: the `recent` ones first, then the built-in models and those whose sizes are known."""
    import presets
    from presets import catalogue

    known = {name: f"built in: {model.title}" for name, model in presets.builtin_models().items()}
    known |= dict.fromkeys(catalogue.models(), "sizes only; to sweep it, give its directory")
    latest = {name: f"recent; {known[name]}" if name in known else "recent" for name in recent}
    choices = list((latest | {name: about for name, about in known.items() if name not in latest}).items())
    return PickerScreen("Model", choices, words, now, _read_model, MODEL_FILES)


def _read_model(typed: str) -> str:
    """A path of a model, or a hub id. Raises InputError for anything else."""
    path = Path(typed).expanduser()
    is_model = (path.is_file() and typed.endswith(MODEL_FILES)) or (path / "config.json").is_file()
    if is_model or (is_path(typed) and path.exists()):
        return str(path)
    if is_path(typed) or "/" not in typed:
        raise InputError(f"{typed}: no such model; give a name, a directory, a config.json, a .gguf file or a hub id")
    return typed


def gpu_picker(now: str = "") -> PickerScreen:
    """A window to choose GPUs: this machine's, or one that is known by name, or a size."""
    from presets.gpus import gpus

    choices = [(THIS_MACHINE, "the devices of this machine, with the memory that is free now")]
    for gpu in gpus().values():
        about = f"{gpu.memory_bytes / (1 << 30):g} GiB, {gpu.bandwidth / 1e9:,.0f} GB/s, {gpu.series}"
        choices.append((gpu.name, about))
    words = "a GPU, 2x GPU, or a size such as 12GiB; separate several by commas"
    return PickerScreen("GPU", choices, words, now or THIS_MACHINE, _read_gpu)


def _read_gpu(typed: str) -> str:
    """What --gpu takes: the whole name of one GPU, otherwise the text. Raises InputError."""
    from sweep.fit.hardware import parse_devices

    devices = parse_devices([typed])
    if not devices:
        raise InputError(f"{typed}: no GPU is named")
    return devices[0].name if len(devices) == 1 else typed
