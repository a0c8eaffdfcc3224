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


_MODEL = Option("model", str, typer.Argument("micro", help="A built-in model, a directory, a .gguf file or a hub id."))
_EVALUATED = Option(
    "model", str, typer.Argument("micro", help="A .gguf file; or a built-in model, a directory or a hub id.")
)
_CHOICE = (
    Option("preset", str, typer.Option("q2-q8", "--preset", help="Which sweep (see `sweep presets`), or a TOML file.")),
    Option(
        "variants",
        str | None,
        typer.Option(
            None,
            "--variants",
            help="Quants, gguf:PATH, hub:REPO/FILE, int8:RECIPE and fq:RECIPE by comma, added to the preset; "
            "with a leading = instead of it.",
        ),
    ),
)
_QUANT = Option(
    "quant",
    str | None,
    typer.Option(None, "--quant", help="The quant a model is exported at, or int8:RECIPE.", show_default="BF16"),
)
_MEASUREMENTS = (
    Option(
        "tasks",
        str | None,
        typer.Option(
            None,
            "--tasks",
            help="By comma: tasks or groups of lm-eval, YAML files, or lists (quick, reasoning, qwen3-study, code); "
            "or none.",
        ),
        _names,
    ),
    Option(
        "task_data",
        Path | None,
        typer.Option(
            None,
            "--task-data",
            help="A directory of task YAML files with their data, or of data sets as JSONL (gsm8k/...).",
        ),
    ),
    Option(
        "perplexity",
        Path | None,
        typer.Option(None, "--perplexity", help="The text for perplexity and KL divergence."),
    ),
    Option("limit", int | None, typer.Option(None, "--limit", min=1, help="Items of each (sub-)task at most.")),
    Option(
        "num_fewshot",
        int | None,
        typer.Option(None, "--num-fewshot", min=0, help="Examples before each question.", show_default="the task's"),
    ),
    Option(
        "chat_template",
        bool | None,
        typer.Option(
            None,
            "--chat-template/--no-chat-template",
            help="Ask in the model's chat template.",
            show_default="not",
        ),
    ),
    Option(
        "thinking",
        Switch | None,
        typer.Option(
            None,
            "--thinking",
            help="Reasoning before an answer, cut off before it is scored; implies --chat-template.",
        ),
        _is_on,
    ),
    Option(
        "max_gen_toks",
        int | None,
        typer.Option(
            None,
            "--max-gen-toks",
            min=1,
            help="Tokens of an answer at most, reasoning included.",
            show_default="the task's",
        ),
    ),
    Option(
        "allow_code",
        bool,
        typer.Option(
            False,
            "--allow-code-execution",
            help="Let tasks such as humaneval run the code that the model writes (confined).",
        ),
    ),
    Option("ctx", int | None, typer.Option(None, "--ctx", min=64, help="Context that memory is stated for.")),
)
_REFERENCE = Option(
    "reference",
    str | None,
    typer.Option(
        None,
        "--reference",
        metavar="auto|VARIANT|FILE",
        help="What all are compared with; auto is BF16 where memory holds it, else Q8_0; a file of log-probabilities.",
    ),
)
_WINDOWS = (
    Option(
        "window",
        int | None,
        typer.Option(None, "--window", min=4, help="Tokens of a perplexity window; 512 by default."),
    ),
    Option(
        "stride",
        int | None,
        typer.Option(
            None,
            "--stride",
            min=1,
            help="How far windows lie apart, as llama-perplexity --ppl-stride; end to end else.",
        ),
    ),
)
_MAKING = (
    Option(
        "imatrix",
        str | None,
        typer.Option(
            None,
            "--imatrix",
            metavar="FILE|auto",
            help="An importance matrix for all quants; auto makes one.",
        ),
    ),
    Option(
        "calibration",
        Path | None,
        typer.Option(
            None,
            "--calibration",
            metavar="FILE|NAME",
            help="The text that --imatrix auto and int8 recipes read.",
            show_default="micro's own, else wikitext-2 for int8",
        ),
    ),
    Option(
        "keep",
        Keep,
        typer.Option(Keep.ALL, "--keep", help="Which files stay: all, the best one, or none once measured."),
    ),
)
_BASE = Option(
    "write_base",
    Path | None,
    typer.Option(
        None, "--write-base", help="Write llama.cpp's base file of the text here, as its --kl-divergence-base does."
    ),
)
_PLACES = (
    Option(
        "ngl",
        int | None,
        typer.Option(None, "--ngl", min=0, help="Layers on GPUs; all of them where there is one."),
    ),
    Option(
        "n_cpu_moe",
        int,
        typer.Option(0, "--n-cpu-moe", min=0, help="Layers, from the first, whose experts stay in RAM."),
    ),
    Option(
        "tensor_split",
        str | None,
        typer.Option(None, "--tensor-split", help="Shares of several GPUs, such as 3,1."),
        shares,
    ),
)
_CARDS = Option(
    "gpu",
    list[str] | None,
    typer.Option(
        None,
        "--gpu",
        help='Skip what this GPU does not hold: a name ("RTX 4090") or a size (24GiB); again for several.',
    ),
    _all,
)
_WORK = (
    Option(
        "workers",
        int | None,
        typer.Option(
            None,
            "--workers",
            min=1,
            max=64,
            help="Jobs to run side by side; speed is measured with nothing beside it.",
            show_default="one a GPU where several are present and hold each variant, else 1",
        ),
    ),
    Option("executor", str, typer.Option("local", "--executor", help="What runs the jobs.")),
)
_DRY_RUN = Option(
    "dry_run", bool, typer.Option(False, "--dry-run", help="Print the plan with exact sizes, and do nothing.")
)
_WORKSPACE = Option("workspace", Path | None, WORKSPACE)

RUN = (
    _MODEL, *_CHOICE, *_MEASUREMENTS, _REFERENCE, *_WINDOWS, *_MAKING, *_PLACES, _CARDS, *_WORK, _DRY_RUN, _WORKSPACE,
)  # fmt: skip
EVAL = (_EVALUATED, _QUANT, *_MEASUREMENTS, *_WINDOWS, _BASE, *_PLACES, *_WORK, _WORKSPACE)
