"""What the user asked for, as the command line and the screen both fill it in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Keep(StrEnum):
    """Which of the files that a sweep made stay when it is through: all of them; the recommended variant's alone; or
    none, each going as soon as it is measured."""

    ALL = "all"
    BEST = "best"
    NONE = "none"


@dataclass(frozen=True)
class Request:
    """What the user asked for; None where the preset or the model decides.

    `window` and `stride` cut the text, `reference` is "auto", a variant or a reference file. `imatrix` is a file's
    path or "auto", `calibration` the text that the latter and int8 recipes read, a file or a name (see
    `inputs.calibration_text`). `write_base` is where the model's log-probabilities are written as llama.cpp does. `gpu`
    are the devices that variants are meant for, as `sweep fit --gpu` takes them: what they do not hold is skipped.
    `workers` jobs run side by side, on the `executor` of this name. With `dry_run` nothing is fetched that a plan can
    do without. `quant` and `write_base` are of `sweep eval` alone.
    """

    model: str = "micro"
    preset: str = "q2-q8"
    variants: str | None = None
    quant: str | None = None
    tasks: tuple[str, ...] | None = None
    task_data: Path | None = None
    perplexity: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool | None = None
    thinking: bool | None = None
    max_gen_toks: int | None = None
    allow_code: bool = False
    ctx: int | None = None
    window: int | None = None
    stride: int | None = None
    reference: str | None = None
    imatrix: str | None = None
    calibration: Path | None = None
    keep: Keep = Keep.ALL
    write_base: Path | None = None
    ngl: int | None = None
    n_cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    gpu: tuple[str, ...] = ()
    workers: int | None = None
    executor: str = "local"
    workspace: Path | None = None
    dry_run: bool = False
