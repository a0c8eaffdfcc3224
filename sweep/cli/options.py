"""The options of `sweep run` and `sweep eval` as one table: each row fills a field of Request.

The Plan screen of `sweep tui` shows these options with their help, and writes command lines from the same table. It
plans one model; `sweep run` also takes several, which is why SWEEP has the options without the model.
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

from sweep.cli import common_options as common
from sweep.cli.help import Panel
from sweep.cli.parsers import (
    cache_size,
    comma_list,
    depths,
    export,
    kv_cache,
    max_kld,
    min_recovery,
    min_tps,
    tensor_split,
    text_list,
    tolerance,
)
from sweep.defaults import SPEED_SECONDS
from sweep.measure.task_options import ThinkingScoring
from sweep.planning.effort import Effort
from sweep.planning.request import Keep, Request, Search

YES, NO = "yes", "no"  # the values of a flag on the Plan screen: given, and given in its negative form


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


def _unchanged(value: Any) -> Any:
    return value


def _is_on(switch: Switch | None) -> bool | None:
    return None if switch is None else switch is Switch.ON


def _as_tuple(values: list[str] | None) -> tuple[str, ...]:
    return tuple(values or ())


@dataclass(frozen=True)
class Option:
    """Typer parses the text of an option to `annotation`; `convert` makes of that the value of Request's `field`."""

    field: str
    annotation: Any
    parameter: ParameterInfo
    convert: Callable[[Any], Any] = _unchanged

    @property
    def name(self) -> str:
        """The option as it is typed: --chat-template."""
        return self.flags[0]

    @property
    def help(self) -> str:
        return self.parameter.help or ""

    @property
    def takes_value(self) -> bool:
        """Whether a value follows the option on a command line."""
        return bool not in self._types

    @property
    def choices(self) -> tuple[str, ...]:
        """The values other than the default, if the option has a fixed set of values; empty otherwise."""
        if bool in self._types:
            return (YES, NO)[: len(self.flags)]
        found = next((kind for kind in self._types if isinstance(kind, type) and issubclass(kind, StrEnum)), ())
        return tuple(str(value) for value in found if value != self.parameter.default)

    def arguments(self, text: str) -> list[str]:
        """The part of a command line that gives the option the value `text`; nothing for an empty text.

        `text` is YES or NO for a flag, and a list separated by commas for an option that can be repeated. A path may
        begin with ~.
        """
        text = text.strip()
        if not text:
            return []
        if bool in self._types:
            return [dict(zip((YES, NO), self.flags, strict=False))[text]]
        if list[str] in self._types:
            return [word for part in text.split(",") if part.strip() for word in (self.name, part.strip())]
        return [self.name, str(Path(text).expanduser()) if Path in self._types else text]

    @property
    def flags(self) -> tuple[str, ...]:
        """The name, followed by the negative form of a flag that has one."""
        return tuple((self.parameter.param_decls or (self.field,))[0].split("/"))

    @property
    def _types(self) -> tuple[Any, ...]:
        return get_args(self.annotation) if isinstance(self.annotation, UnionType) else (self.annotation,)


def with_options(*options: Option) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Turns a function of a Request into a command: typer sees `options` instead of the request, then the function's
    other parameters."""

    def wrap(command: Callable[..., int]) -> Callable[..., int]:
        _, *others = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def from_options(**values: Any) -> int:
            fields = {option.field: option.convert(values.pop(option.field)) for option in options}
            return command(Request(**fields), **values)

        by_name = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            *(inspect.Parameter(o.field, by_name, default=o.parameter, annotation=o.annotation) for o in options),
            *(parameter.replace(kind=by_name) for parameter in others),
        ]
        from_options.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
        from_options.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        return from_options

    return wrap


def _option(
    panel: Panel, field: str, annotation: Any, help: str, *, default: Any = None, name: str = "",
    convert: Callable[[Any], Any] = _unchanged, **more: Any,
) -> Option:  # fmt: skip
    """An option with the field's name, with dashes, unless it has another `name`."""
    declared = typer.Option(default, name or f"--{field.replace('_', '-')}", help=help, rich_help_panel=panel, **more)
    return Option(field, annotation, declared, convert)


_MODEL = Option(
    "model",
    str,
    common.model(common.BUILT_IN, common.CHECKPOINT, common.GGUF_FILE, common.HUB_ID, common.GGUF_REPOSITORY),
)
_EVALUATED = Option(
    "model",
    str,
    common.model(common.GGUF_FILE_OR_HUB_FILE, common.BUILT_IN, common.CHECKPOINT, common.HUB_ID),
)
_CHOICE = (
    _option(
        Panel.VARIANTS,
        "preset",
        str,
        "The list of variants to compare: a name from `sweep presets`, or a TOML file, which may also set measure, "
        "tasks, limit, ctx, window, effort, precision and a target.",
        default="q2-q8",
        metavar="NAME|FILE",
    ),
    _option(
        Panel.VARIANTS,
        "variants",
        str | None,
        "Variants to add to the preset, separated by commas: quants, gguf:FILE, hub:OWNER/REPO/FILE.gguf, "
        "int8:RECIPE or fq:RECIPE (fake-quant). A GGUF variant can end with the types of its KV cache, +kv=q8_0 or "
        "+k=q8_0,v=q4_0, and, for a vision model, with its projector file, +mmproj=TYPE or +mmproj=FILE; F16 by "
        "default. A list that starts with = replaces the variants of the preset. For a repository of GGUF files: its "
        "files by their quants (all: every file), other repositories as hub:OWNER/REPO, and quants to make from its "
        "unquantized file.",
        metavar="LIST",
    ),
)
_QUANT = _option(
    Panel.VARIANTS,
    "quant",
    str | None,
    "The quant, or int8:RECIPE, to make from a checkpoint and to measure. Not for .gguf files.",
    metavar="NAME",
    show_default="BF16",
)
_REQUANTIZE = Option("requantize", bool, common.REQUANTIZE)
_REFERENCE = _option(
    Panel.VARIANTS,
    "reference",
    str | None,
    "What the variants are compared with: a variant or a .gguf file; auto, which is BF16 if it fits in GPU memory "
    "or RAM, and Q8_0 otherwise; or a file of log-probabilities from `sweep eval --write-base` or llama-perplexity.",
    metavar="auto|VARIANT|FILE",
    show_default="the preset's, BF16 in the built-in presets",
)
_PREPARATION = (
    Option("imatrix", str | None, common.IMATRIX),
    Option(
        "calibration",
        Path | None,
        common.calibration(
            "for --imatrix auto and to calibrate int8 recipes",
            ", wikitext-2 (int8 only)",
            f"{common.OWN_TEXT}, otherwise wikitext-2 for int8; --imatrix auto then needs a file",
        ),
    ),
)
_MEASURE = (
    "What to measure, separated by commas: text (perplexity and KL divergence), tasks, speed (with memory). Of speech "
    "models only speech is measured."
)


def _measure(show_default: str, seconds: str = "") -> tuple[Option, ...]:
    """--measure and the options of speed. `seconds` says what else sets the default of --speed-seconds."""
    return (
        _option(
            Panel.MEASUREMENTS,
            "measure",
            str | None,
            _MEASURE,
            metavar="LIST",
            show_default=show_default,
            convert=comma_list,
        ),
        _option(
            Panel.MEASUREMENTS,
            "depth",
            str | None,
            "Measure speed also after this many tokens of context, as llama-bench -d does: numbers separated by "
            "commas, such as 4096,16384. The speed after 0 tokens is always measured with them.",
            metavar="LIST",
            show_default="0",
            convert=depths,
        ),
        _option(
            Panel.MEASUREMENTS,
            "speed_seconds",
            float | None,
            "Time for the timings of a variant's speed, in seconds. If the model is slow, each timing is of fewer "
            "tokens.",
            show_default=f"{SPEED_SECONDS:g}{seconds}",
            min=0.1,
        ),
        _option(
            Panel.MEASUREMENTS,
            "draft",
            Path | None,
            "Measure with speed how many tokens each variant accepts that this smaller model drafts, for speculative "
            "decoding: a GGUF file with the same tokenizer. MTP layers are not measured.",
            metavar="FILE.gguf",
            show_default="no draft",
        ),
    )


_TASKS = (
    _option(
        Panel.MEASUREMENTS,
        "tasks",
        str | None,
        "lm-eval tasks, separated by commas: names of tasks or groups, YAML files, or the lists quick, reasoning, "
        "qwen3-study, code and vision. needle_4096 asks for numbers in a text of 4,096 tokens, or of another length. "
        "none means no tasks.",
        metavar="LIST",
        show_default="a built-in model's own tasks, otherwise gsm8k, hellaswag, mmlu and ifeval",
        convert=comma_list,
    ),
    _option(
        Panel.MEASUREMENTS,
        "task_data",
        Path | None,
        "Directory with task YAML files and their data, or with data sets as JSONL files (gsm8k/test.jsonl). Data "
        "that it lacks is downloaded.",
        metavar="DIR",
        show_default="download from the Hugging Face Hub",
    ),
    _option(
        Panel.MEASUREMENTS,
        "limit",
        int | None,
        "Number of items to use per task or sub-task, counted from the first.",
        min=1,
        show_default="all items; 100 in the list quick; 200 in the default tasks of models that are not built in",
    ),
    _option(
        Panel.MEASUREMENTS,
        "num_fewshot",
        int | None,
        "Number of solved examples before each question.",
        min=0,
        show_default="the task's own number",
    ),
    _option(
        Panel.MEASUREMENTS,
        "chat_template",
        bool | None,
        "Format prompts with the model's chat template.",
        name="--chat-template/--no-chat-template",
        show_default="--no-chat-template",
    ),
    _option(
        Panel.MEASUREMENTS,
        "thinking",
        Switch | None,
        "Ask the model to reason before it answers (on) or not to reason (off). Reasoning is removed before scoring. "
        'Implies --chat-template. Multiple-choice tasks reject "on".',
        convert=_is_on,
        show_default="as the chat template does",
    ),
    _option(
        Panel.MEASUREMENTS,
        "thinking_scoring",
        ThinkingScoring,
        "What is scored if the model reasons: the answer after the reasoning, or what lm-eval scores, which may be "
        "part of the reasoning.",
        default=ThinkingScoring.ANSWER,
    ),
    _option(
        Panel.MEASUREMENTS,
        "max_gen_toks",
        int | None,
        "Maximum length of a generated answer, in tokens, including reasoning.",
        min=1,
        show_default="the task's own limit",
    ),
    _option(
        Panel.MEASUREMENTS,
        "allow_code",
        bool,
        "Allow tasks such as humaneval to run code that the model wrote, in a restricted child process.",
        default=False,
        name="--allow-code-execution",
        show_default="such tasks are rejected",
    ),
)
_EFFORT = _option(
    Panel.MEASUREMENTS,
    "effort",
    Effort | None,
    "How much to measure where no other option says it: quick takes the first 50 items of each task and the first "
    "32,768 tokens of each text, and times speed for 4 seconds; normal takes the defaults; thorough all items of the "
    "default tasks and lists, and 30 seconds for speed. The predicted time is printed.",
    show_default="normal, or as in the preset",
)
_PRECISION = _option(
    Panel.MEASUREMENTS,
    "precision",
    str | None,
    "How much of each text to measure: full measures all of it; decide as much as it takes to know which variants are "
    "under the KL divergence of --max-kld (0.02 by default) and in which order they are; 5% the same, and each KL "
    "divergence to within 5 percent. With decide or 5%, tasks also end early, when their comparison is certain.",
    show_default="5%, or as in the preset; full for built-in models, with a reference file or --effort thorough, and "
    "if the reference's whole text is stored",
    metavar="full|decide|PERCENT",
)
_EVAL_PRECISION = _option(
    Panel.MEASUREMENTS,
    "precision",
    str | None,
    "How much of each text to measure: full measures all of it; 2% takes windows in random order until the 95 percent "
    "interval of the perplexity is at most 2 percent to either side. It cannot be combined with --write-base.",
    show_default="full",
    metavar="full|PERCENT",
)
_SEARCH = _option(
    Panel.MEASUREMENTS,
    "search",
    Search | None,
    "Measure the variants from the smallest to the largest, and end at the first that is good enough: the one that the "
    "advice chooses. Larger ones are not measured.",
    show_default="all variants are measured",
)
_IMAGES = (
    _option(
        Panel.MEASUREMENTS,
        "min_pixels",
        int | None,
        "Smaller images are enlarged to this number of pixels.",
        min=1,
        show_default="as the checkpoint's image processor does",
    ),
    _option(
        Panel.MEASUREMENTS,
        "max_pixels",
        int | None,
        "Larger images are reduced to this number of pixels, which makes them fewer tokens.",
        min=1,
        show_default="as the checkpoint's image processor does",
    ),
    _option(
        Panel.MEASUREMENTS,
        "image_cache",
        str,
        "Size of the cache of embeddings in the workspace, so that an image is encoded once for all variants with the "
        "same projector file. 0 turns it off.",
        default="4GiB",
        metavar="SIZE",
        convert=cache_size,
    ),
)
_SPEECH = (
    _option(
        Panel.MEASUREMENTS,
        "audio",
        Path | None,
        "Directory of recordings that a speech model is measured on, with a table of their transcripts (CSV, TSV or "
        "JSONL with the columns file and text) or in LibriSpeech's layout.",
        metavar="DIR",
        show_default="none; needed for a speech model",
    ),
    Option("language", str, common.LANGUAGE),
)
_STRIDE = _option(
    Panel.MEASUREMENTS,
    "stride",
    int | None,
    "Distance between the starts of neighbouring windows, in tokens, as in llama-perplexity --ppl-stride. It must be "
    "smaller than --window.",
    min=1,
    show_default="windows do not overlap",
)
_RUN_TEXT = (
    Option("perplexity", list[str] | None, common.perplexities("perplexity and KL divergence"), text_list),
    Option("window", int | None, common.window(None, "512, or as in the preset or the --reference file")),
    _STRIDE,
    Option("parse_special", bool, common.PARSE_SPECIAL),
)
_EVAL_TEXT = (
    Option("perplexity", list[str] | None, common.perplexities("perplexity"), text_list),
    Option("window", int | None, common.window(None, "512")),
    _STRIDE,
    Option("parse_special", bool, common.PARSE_SPECIAL),
)
_PLACEMENT = (
    _option(
        Panel.MEMORY,
        "ngl",
        int | None,
        "Number of layers to place on GPUs.",
        min=0,
        show_default="all, if there is a GPU",
    ),
    _option(
        Panel.MEMORY,
        "n_cpu_moe",
        int,
        "Number of layers, counted from the first, whose experts stay in RAM.",
        default=0,
        min=0,
    ),
    _option(
        Panel.MEMORY,
        "tensor_split",
        str | None,
        "Share of the model on each GPU, separated by commas, such as 3,1.",
        metavar="LIST",
        show_default="llama.cpp decides",
        convert=tensor_split,
    ),
)
_CONTEXT = Option("ctx", int | None, common.context(64))
_CACHE = "Type of llama.cpp's KV cache"
_RUN_CACHE = Option(
    "kv_type",
    str | None,
    common.kv_type(
        f"{_CACHE} for all variants but the reference",
        "f16",
        " The reference keeps an f16 cache, so KL divergence and task differences include what the cache costs.",
    ),
    kv_cache,
)
_EVAL_CACHE = Option("kv_type", str | None, common.kv_type(_CACHE, "f16"), kv_cache)
_GPUS = Option(
    "gpu",
    list[str] | None,
    common.gpu(
        "Skip variants that do not fit on this GPU nor, if RAM is named too (64GiB RAM, any RAM), run partly in it",
        "no variant is skipped",
    ),
    _as_tuple,
)
_EXECUTION = (
    _option(
        Panel.EXECUTION,
        "workers",
        int | None,
        "Number of jobs to run at the same time. While speed is measured, no other job runs.",
        min=1,
        max=64,
        show_default="one per GPU if there are several and each can hold every variant, otherwise 1",
    ),
    _option(
        Panel.EXECUTION,
        "executor",
        str,
        "The executor that runs the jobs: local means worker processes on this machine. Extensions can add others.",
        default="local",
        metavar="NAME",
    ),
)
_DRY_RUN = Option("dry_run", bool, common.DRY_RUN)
_KEEP = _option(
    Panel.OUTPUT,
    "keep",
    Keep | None,
    "Which model files to keep after the run: all, only that of the recommended variant (best), or none. With none, "
    "each file is deleted as soon as it has been measured.",
    show_default="all that were made; none of those downloaded from a repository of GGUF files",
)
_BASE_FILE = _option(
    Panel.OUTPUT,
    "write_base",
    Path | None,
    "Write the model's log-probabilities over the text to this file, in the format of llama-perplexity "
    "--kl-divergence-base. It cannot be combined with --stride.",
    metavar="FILE",
)
_FORCE = Option("force", bool, common.FORCE)
_TOLERANCE = Option("tolerance", str | None, common.TOLERANCE, tolerance)
_TARGET = (
    Option("min_tps", str | None, common.MIN_TPS, min_tps),
    Option("max_kld", str | None, common.MAX_KLD, max_kld),
    Option("min_recovery", str | None, common.MIN_RECOVERY, min_recovery),
)
_EXPORT = Option("export", str | None, common.EXPORT, export)
_WORKSPACE = Option("workspace", Path | None, common.WORKSPACE)

_RUN_MEASURE = _measure("the preset's, otherwise all", ", or as --effort says")
SWEEP = (
    *_CHOICE, _REQUANTIZE, _REFERENCE, *_PREPARATION, _EFFORT, _PRECISION, _SEARCH, *_RUN_MEASURE, *_TASKS,
    *_IMAGES, *_SPEECH, *_RUN_TEXT, _CONTEXT, _RUN_CACHE, _GPUS, *_PLACEMENT, *_TARGET, *_EXECUTION, _DRY_RUN, _KEEP,
    _EXPORT, _TOLERANCE, _WORKSPACE,
)  # fmt: skip
"""The options of `sweep run`, which are the same for each of its models."""
RUN = (_MODEL, *SWEEP)
EVAL = (
    _EVALUATED, _QUANT, _EVAL_PRECISION, *_measure("what the other options name, otherwise all"), *_TASKS, *_IMAGES,
    *_EVAL_TEXT, _CONTEXT, _EVAL_CACHE, *_PLACEMENT, *_EXECUTION, _BASE_FILE, _FORCE, _WORKSPACE,
)  # fmt: skip
