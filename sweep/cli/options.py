"""The options of `sweep run` and `sweep eval`, each named once: the field of Request that it fills, its name and help.

The screen writes command lines by the same table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import typer
from typer.models import ParameterInfo

from sweep.cli.amounts import shares
from sweep.cli.output import WORKSPACE
from sweep.planning.request import Keep, Request

YES, NO = "yes", "no"  # what a flag says by being there, in words


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


def _as_it_is(value: Any) -> Any:
    return value


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _is_on(switch: Switch | None) -> bool | None:
    return None if switch is None else switch is Switch.ON


def _all(values: list[str] | None) -> tuple[str, ...]:
    return tuple(values or ())


@dataclass(frozen=True)
class Option:
    """`kind` is what typer makes of what is typed, and `read` makes of that the value of Request's `field`."""

    field: str
    kind: Any
    declared: ParameterInfo
    read: Callable[[Any], Any] = _as_it_is

    @property
    def name(self) -> str:
        """As it is typed: --chat-template."""
        return self._names[0]

    @property
    def help(self) -> str:
        return self.declared.help or ""

    @property
    def choices(self) -> tuple[str, ...]:
        """What there is to say beside saying nothing, where that is one of a few."""
        if bool in self._kinds:
            return (YES, NO)[: len(self._names)]
        found = next((kind for kind in self._kinds if isinstance(kind, type) and issubclass(kind, StrEnum)), ())
        return tuple(str(value) for value in found if value != self.declared.default)

    def words(self, text: str) -> list[str]:
        """The part of a command line that says `text`: of a flag YES or NO, of what can be said again a list by comma,
        of a path perhaps one from ~. Nothing for an empty text."""
        text = text.strip()
        if not text:
            return []
        if bool in self._kinds:
            return [dict(zip((YES, NO), self._names, strict=False))[text]]
        if list[str] in self._kinds:
            return [word for part in text.split(",") if part.strip() for word in (self.name, part.strip())]
        return [self.name, str(Path(text).expanduser()) if Path in self._kinds else text]

    @property
    def _names(self) -> tuple[str, ...]:
        """And its opposite, where it has one."""
        return tuple((self.declared.param_decls or (self.field,))[0].split("/"))

    @property
    def _kinds(self) -> tuple[Any, ...]:
        return get_args(self.kind) if isinstance(self.kind, UnionType) else (self.kind,)


def takes(*options: Option) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Makes a command of a function of a Request: typer sees `options` in its place, then the function's others."""

    def wrap(command: Callable[..., int]) -> Callable[..., int]:
        _, *others = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def asked(**given: Any) -> int:
            fields = {option.field: option.read(given.pop(option.field)) for option in options}
            return command(Request(**fields), **given)

        by_name = inspect.Parameter.KEYWORD_ONLY
        seen = [
            *(inspect.Parameter(one.field, by_name, default=one.declared, annotation=one.kind) for one in options),
            *(parameter.replace(kind=by_name) for parameter in others),
        ]
        asked.__annotations__ = {parameter.name: parameter.annotation for parameter in seen} | {"return": int}
        asked.__signature__ = inspect.Signature(seen, return_annotation=int)  # type: ignore[attr-defined]
        return asked

    return wrap


def _option(
    field: str, kind: Any, help: str, *, default: Any = None, name: str = "", read: Callable[[Any], Any] = _as_it_is,
    **more: Any,
) -> Option:  # fmt: skip
    """An option called as the field is, with dashes, unless it has a `name`."""
    return Option(field, kind, typer.Option(default, name or f"--{field.replace('_', '-')}", help=help, **more), read)


_MODEL = Option("model", str, typer.Argument("micro", help="A built-in model, a directory, a .gguf file or a hub id."))
_EVALUATED = Option(
    "model", str, typer.Argument("micro", help="A .gguf file; or a built-in model, a directory or a hub id.")
)
_CHOICE = (
    _option("preset", str, "Which sweep (see `sweep presets`), or a TOML file.", default="q2-q8"),
    _option(
        "variants",
        str | None,
        "Quants, gguf:PATH, hub:REPO/FILE, int8:RECIPE and fq:RECIPE by comma, added to the preset; with a leading = "
        "instead of it.",
    ),
)
_QUANT = _option("quant", str | None, "The quant a model is exported at, or int8:RECIPE.", show_default="BF16")
_MEASUREMENTS = (
    _option(
        "tasks",
        str | None,
        "By comma: tasks or groups of lm-eval, YAML files, or lists (quick, reasoning, qwen3-study, code); or none.",
        read=_names,
    ),
    _option(
        "task_data",
        Path | None,
        "A directory of task YAML files with their data, or of data sets as JSONL (gsm8k/...).",
    ),
    _option("perplexity", Path | None, "The text for perplexity and KL divergence."),
    _option("limit", int | None, "Items of each (sub-)task at most.", min=1),
    _option("num_fewshot", int | None, "Examples before each question.", min=0, show_default="the task's"),
    _option(
        "chat_template",
        bool | None,
        "Ask in the model's chat template.",
        name="--chat-template/--no-chat-template",
        show_default="not",
    ),
    _option(
        "thinking",
        Switch | None,
        "Reasoning before an answer, cut off before it is scored; implies --chat-template.",
        read=_is_on,
    ),
    _option(
        "max_gen_toks",
        int | None,
        "Tokens of an answer at most, reasoning included.",
        min=1,
        show_default="the task's",
    ),
    _option(
        "allow_code",
        bool,
        "Let tasks such as humaneval run the code that the model writes (confined).",
        default=False,
        name="--allow-code-execution",
    ),
    _option("ctx", int | None, "Context that memory is stated for.", min=64),
)
_REFERENCE = _option(
    "reference",
    str | None,
    "What all are compared with; auto is BF16 where memory holds it, else Q8_0; a file of log-probabilities.",
    metavar="auto|VARIANT|FILE",
)
_WINDOWS = (
    _option("window", int | None, "Tokens of a perplexity window; 512 by default.", min=4),
    _option(
        "stride", int | None, "How far windows lie apart, as llama-perplexity --ppl-stride; end to end else.", min=1
    ),
)
_MAKING = (
    _option("imatrix", str | None, "An importance matrix for all quants; auto makes one.", metavar="FILE|auto"),
    _option(
        "calibration",
        Path | None,
        "The text that --imatrix auto and int8 recipes read.",
        metavar="FILE|NAME",
        show_default="micro's own, else wikitext-2 for int8",
    ),
    _option("keep", Keep, "Which files stay: all, the best one, or none once measured.", default=Keep.ALL),
)
_BASE = _option(
    "write_base", Path | None, "Write llama.cpp's base file of the text here, as its --kl-divergence-base does."
)
_PLACES = (
    _option("ngl", int | None, "Layers on GPUs; all of them where there is one.", min=0),
    _option("n_cpu_moe", int, "Layers, from the first, whose experts stay in RAM.", default=0, min=0),
    _option("tensor_split", str | None, "Shares of several GPUs, such as 3,1.", read=shares),
)
_CARDS = _option(
    "gpu",
    list[str] | None,
    'Skip what this GPU does not hold: a name ("RTX 4090") or a size (24GiB); again for several.',
    read=_all,
)
_WORK = (
    _option(
        "workers",
        int | None,
        "Jobs to run side by side; speed is measured with nothing beside it.",
        min=1,
        max=64,
        show_default="one a GPU where several are present and hold each variant, else 1",
    ),
    _option("executor", str, "What runs the jobs.", default="local"),
)
_DRY_RUN = _option("dry_run", bool, "Print the plan with exact sizes, and do nothing.", default=False)
_WORKSPACE = Option("workspace", Path | None, WORKSPACE)

RUN = (
    _MODEL, *_CHOICE, *_MEASUREMENTS, _REFERENCE, *_WINDOWS, *_MAKING, *_PLACES, _CARDS, *_WORK, _DRY_RUN, _WORKSPACE,
)  # fmt: skip
EVAL = (_EVALUATED, _QUANT, *_MEASUREMENTS, *_WINDOWS, _BASE, *_PLACES, *_WORK, _WORKSPACE)
