"""The window with the options of `sweep fit`: a line for each, with the help of the highlighted one."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.events import DescendantFocus
from textual.widgets import Input, Static

from converters.errors import InputError
from sweep import format as fmt
from tui.keymap import bind
from tui.screens.window import Window
from tui.state.question import FIT_FIELDS, Question, help_of
from tui.theme import palette
from tui.widgets.choice import Choice
from tui.widgets.note import Note


class _Rows(VerticalScroll, can_focus=False, inherit_bindings=False):
    """Rows that scroll to the focused one. The arrow keys go to the window, also when there is something to scroll."""


class FitSettingsScreen(Window[Question | None]):
    """Returns the question with other values of these fields, by default all. A value that `sweep fit` would reject
    keeps the window open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("down", "move(1)", "Next field"),
        bind("up", "move(-1)", "Previous field"),
        bind("open", "accept", "Accept"),
    ]

    def __init__(self, question: Question, names: Collection[str] = (), title: str = "How the model will run") -> None:
        fields = [one for one in FIT_FIELDS if not names or one.name in names]
        moves = "↑ ↓ next field · space next value · " if len(fields) > 1 else ""
        super().__init__(title, f"{moves}enter accept · esc close")
        self._question, self._fields = question, fields

    def content(self) -> ComposeResult:
        with _Rows(id="settings"):
            for one in self._fields:
                with Horizontal(classes="row"):
                    yield Static(one.label, classes="label")
                    if one.values:
                        yield Choice(one.values, name=one.name, id=f"setting-{one.name}", classes="field")
                    else:
                        yield Input(name=one.name, id=f"setting-{one.name}", classes="field", compact=True)
        yield Note(id="message", classes="words")

    def on_mount(self) -> None:
        for one in self._fields:
            field = self._field(one.name)
            field.value, field.placeholder = self._question.value(one.name), one.empty
        self._field(self._fields[0].name).focus()

    def _field(self, name: str) -> Input | Choice:
        found = self.query_one(f"#setting-{name}")
        assert isinstance(found, (Input, Choice))
        return found

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        one = next((one for one in self._fields if one.name == event.widget.name), None)
        if one is not None:
            colours = palette(self.app)
            words = Text.assemble((f"{one.option}  ", colours.accent), (help_of(one.name), colours.soft))
            self.query_one(Note).show(words)

    def action_move(self, step: int) -> None:
        names = [one.name for one in self._fields]
        at = next((index for index, name in enumerate(names) if self._field(name).has_focus), 0)
        self._field(names[min(max(at + step, 0), len(names) - 1)]).focus()

    def action_accept(self) -> None:
        question = self._question.with_typed(**{one.name: self._field(one.name).value for one in self._fields})
        try:
            question.check()
        except InputError as error:
            self.query_one(Note).show(Text(f"✗ {fmt.plain(error)}", palette(self.app).bad))
            return
        self.dismiss(question)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_accept()
