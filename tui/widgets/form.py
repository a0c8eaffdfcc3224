"""The form of the Plan screen: a field for each option of `sweep run`, in groups, each with its default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.events import DescendantFocus
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from sweep.defaults import DEFAULT_CONTEXT
from tui.keymap import bind
from tui.state.draft import OPTIONS
from tui.theme import Palette
from tui.widgets.choice import Choice
from tui.widgets.path_input import ANY_FILE, PathInput

DIRECTORIES: tuple[str, ...] = ()  # no files


@dataclass(frozen=True)
class OptionField:
    """A field of Request. `empty` describes the default that applies while nothing is typed. `endings` are those of the
    files whose paths are completed, for a field that takes a path."""

    name: str
    label: str
    empty: str
    endings: tuple[str, ...] | None = None


GROUPS = (
    (
        "Tasks",
        (
            OptionField("tasks", "tasks", "the model's default"),
            OptionField("limit", "limit per task", "all, or the list's limit"),
            OptionField("num_fewshot", "few-shot examples", "the task's default"),
            OptionField("chat_template", "chat template", "no"),
            OptionField("thinking", "thinking", "the model's default"),
            OptionField("thinking_scoring", "scored text", "the answer only"),
            OptionField("max_gen_toks", "max answer tokens", "the task's default"),
            OptionField("task_data", "task data", "from the hub", DIRECTORIES),
            OptionField("allow_code", "run code of tasks", "no"),
        ),
    ),
    (
        "Text",
        (
            OptionField("perplexity", "perplexity text", "the model's default", ANY_FILE),
            OptionField("window", "window", "512"),
            OptionField("stride", "stride", "no overlap"),
            OptionField("reference", "reference", "the preset's", ANY_FILE),
            OptionField("parse_special", "special tokens", "plain text"),
        ),
    ),
    (
        "Measurements",
        (
            OptionField("measure", "measure", "the preset's, or all"),
            OptionField("effort", "effort", "normal"),
            OptionField("precision", "precision", "5%; built-in models: full"),
            OptionField("search", "search", "none"),
            OptionField("depth", "speed at depth", "0"),
            OptionField("speed_seconds", "seconds for speed", "10"),
        ),
    ),
    (
        "Quantization",
        (
            OptionField("requantize", "requantize", "no"),
            OptionField("imatrix", "importance matrix", "none", (".gguf",)),
            OptionField("calibration", "calibration text", "the model's default", ANY_FILE),
        ),
    ),
    (
        "Memory",
        (
            OptionField("ctx", "context", str(DEFAULT_CONTEXT)),
            OptionField("kv_type", "KV type", "f16"),
            OptionField("gpu", "GPU to fit", "any"),
            OptionField("ngl", "layers on GPU", "all that fit"),
            OptionField("n_cpu_moe", "MoE layers in RAM", "none"),
            OptionField("tensor_split", "tensor split", "llama.cpp's default"),
        ),
    ),
    (
        "Images",
        (
            OptionField("min_pixels", "fewest pixels", "the model's limit"),
            OptionField("max_pixels", "most pixels", "the model's limit"),
            OptionField("image_cache", "cache of images", "4GiB"),
        ),
    ),
    (
        "Speech",
        (
            OptionField("audio", "recordings", "none; a folder for a speech model", DIRECTORIES),
            OptionField("language", "language", "en"),
        ),
    ),
    (
        "Running",
        (
            OptionField("workers", "parallel jobs", "one per GPU"),
            OptionField("keep", "keep files", "all that were made"),
        ),
    ),
)
FIELDS = tuple(field for _, fields in GROUPS for field in fields)


class OptionForm(VerticalScroll, can_focus=False):
    """The fields. Up and down move from field to field."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("down", "move(1)", "Fields", tooltip="Go to the next or the previous field", show=True, display="↑ ↓"),
        bind("up", "move(-1)", "Previous field"),
        bind("open", "move(1)", "Next field"),
        bind("close", "screen.clear", "Table", tooltip="Back to the table", show=True),
    ]

    class Changed(Message):
        """The value of a field was changed by the user."""

        def __init__(self, name: str, value: str) -> None:
            self.name, self.value = name, value
            super().__init__()

    class Entered(Message):
        """A field got the focus."""

        def __init__(self, name: str) -> None:
            self.name = name
            super().__init__()

    def compose(self) -> ComposeResult:
        for title, fields in GROUPS:
            yield Static(title, classes="group")
            for field in fields:
                with Horizontal(classes="row"):
                    yield Static(field.label, classes="label")
                    yield _widget(field)

    def on_mount(self) -> None:
        self.explain({})

    def put(self, values: Mapping[str, str]) -> None:
        """Set these values, and clear the other fields. No Changed message is sent."""
        for name in (field.name for field in FIELDS):
            field = self._field(name)
            if field.value != values.get(name, ""):
                with self.prevent(Input.Changed):
                    field.value = values.get(name, "")

    def explain(self, known: Mapping[str, str]) -> None:
        """Show the defaults of empty fields: those in `known` by name, the general description for others."""
        for field in FIELDS:
            self._field(field.name).placeholder = known.get(field.name) or field.empty

    def enter(self, name: str = "") -> None:
        """Focus a field, the first one by default."""
        self._field(name or FIELDS[0].name).focus()

    def action_move(self, step: int) -> None:
        names = [field.name for field in FIELDS]
        at = next((index for index, name in enumerate(names) if self._field(name).has_focus), None)
        if at is not None:
            self.enter(names[min(max(at + step, 0), len(names) - 1)])

    def _field(self, name: str) -> Any:
        return self.query_one(f"#field-{name}", Choice if OPTIONS[name].choices else Input)

    @on(Input.Changed)
    def _typed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Changed(str(message.input.name), message.value))

    @on(Choice.Changed)
    def _chosen(self, message: Choice.Changed) -> None:
        message.stop()
        self.post_message(self.Changed(str(message.choice.name), message.choice.value))

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        if event.widget.name is not None:
            self.post_message(self.Entered(event.widget.name))


def _widget(field: OptionField) -> Widget:
    known: dict[str, Any] = {"name": field.name, "id": f"field-{field.name}", "classes": "field"}
    choices = OPTIONS[field.name].choices
    if choices:
        return Choice(choices, **known)
    if field.endings is not None:
        return PathInput(endings=field.endings, compact=True, **known)
    return Input(compact=True, **known)


def explanation(name: str, colours: Palette) -> Text:
    """The name and help of an option, as in `sweep run --help`."""
    option = OPTIONS[name]
    return Text.assemble((f"{option.name}  ", colours.accent), (option.help, colours.soft))


def placeholders(plan: Mapping[str, Any], typed: Mapping[str, str]) -> dict[str, str]:
    """By field, the default that applies: the plan's value, unless the plan was made with a typed one."""
    settings, tasks = plan["settings"], plan["tasks"]
    known = {
        "measure": ", ".join(plan.get("measure", ())),
        "precision": _with_reason(plan.get("precision"), plan.get("precision_reason")),
        "tasks": ", ".join(tasks) or "none",
        "limit": _shared(tasks.values()),
        "perplexity": plan["text"],
        "window": str(settings["window"]),
        "reference": plan["reference"],
        "ctx": str(settings["ctx"]),
        "kv_type": settings["kv_type"],
    }
    return {name: value for name, value in known.items() if not typed.get(name, "").strip()}


def _with_reason(value: str | None, reason: str | None) -> str:
    return f"{value} ({reason})" if value and reason else value or ""


def _shared(words: Iterable[str]) -> str:
    """The word that all have in common, or an empty string."""
    found = set(words)
    return found.pop() if len(found) == 1 else ""
