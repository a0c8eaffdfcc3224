"""The request for a sweep: the options that the user chose on the command line or on the Plan screen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from presets.advice import Tolerance
from sweep.defaults import IMAGE_CACHE_BYTES
from sweep.kv_cache import DEFAULT, KVCache
from sweep.measure.task_options import ThinkingScoring
from sweep.planning.effort import Effort
from sweep.run_question import RunQuestion
from sweep.target import Target


class Keep(StrEnum):
    """Which of the model files that a sweep made are kept: all; only the recommended variant's (the others are removed
    at the end); or none (each is removed as soon as it is measured)."""

    ALL = "all"
    BEST = "best"
    NONE = "none"


class Search(StrEnum):
    """In which order variants are measured, to end before all of them are."""

    SMALLEST_FIRST = "smallest-first"


@dataclass(frozen=True)
class Request:
    """The user's options. None: the preset or the model decides.

    - `perplexity`: the texts, files, "-" for stdin, or names (see `texts.text_for`). The figures of the first one are
      the headline.
    - `window`, `stride`: how the text is cut, in tokens. `ctx`: the context for the memory, in tokens.
    - `kv_type`: the types of llama.cpp's KV cache for all variants but the reference, whose cache is f16.
    - `requantize`: quantize a GGUF file that is quantized already.
    - `reference`: "auto", a variant or a reference file.
    - `imatrix`: a file's path or "auto". `calibration`: the text for "auto" and for int8 recipes, a file or a name (see
      `texts.calibration_text`).
    - `audio`: the directory with recordings and transcripts that a speech model is measured on; `language` is a code.
    - `thinking_scoring`: how answers after reasoning are scored.
    - `min_pixels`, `max_pixels`: limits for images. `image_cache`: bytes of embeddings that the workspace keeps.
    - `measure`: the names of the measurements (see jobs.registry); None: the preset's, or all. `sweep eval` then
      measures only what other options name.
    - `speed_seconds`: the time for repeats of the timings of speed. `depth`: the numbers of tokens after which speed is
      measured. `draft`: the GGUF file of a model that drafts tokens for speculative decoding.
    - `parse_special`: read special tokens in the texts as such (see TextForm).
    - `precision`: "full", "decide" or a percentage: how much is measured of a text (see planning.precision).
    - `search`: measure variants in this order until one is good enough; None: measure all.
    - `limit`: the number of items of each task; `effort`: how much is measured where no option says it.
    - `keep`: see `Keep`; None: all files that were made, and none of those that were downloaded.
    - `ngl`: layers on GPUs; `n_cpu_moe`: layers whose experts stay in RAM; `tensor_split`: the share of each GPU.
    - `gpu`: the devices to fit on, as `sweep fit --gpu` takes them. Variants that do not fit are skipped.
    - `workers`: the number of jobs to run at the same time. `executor`: the name of the executor.
    - `tolerance`: the loss on tasks that the advice accepts; None: the default of presets/advice.toml. `min_tps`,
      `max_kld`, `min_recovery`: the bounds of the target (see Target). `export`: the file that runs the chosen variant.
    - `dry_run`: download only what the plan needs.
    - `windows`: at most this many windows of each text are read, only for the search of a mix.
    - `quant`, `write_base`, `force`: only for `sweep eval`. `write_base` is where the model's log-probabilities are
      written in llama.cpp's format; `force` allows to replace a file there.
    """

    model: str = "micro"
    preset: str = "q2-q8"
    variants: str | None = None
    quant: str | None = None
    requantize: bool = False
    measure: tuple[str, ...] | None = None
    speed_seconds: float | None = None
    depth: tuple[int, ...] = ()
    draft: Path | None = None
    tasks: tuple[str, ...] | None = None
    task_data: Path | None = None
    perplexity: tuple[Path, ...] = ()
    parse_special: bool = False
    audio: Path | None = None
    language: str = "en"
    limit: int | None = None
    effort: Effort | None = None
    precision: str | None = None
    search: Search | None = None
    num_fewshot: int | None = None
    chat_template: bool | None = None
    thinking: bool | None = None
    thinking_scoring: ThinkingScoring = ThinkingScoring.ANSWER
    max_gen_toks: int | None = None
    allow_code: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    image_cache: int = IMAGE_CACHE_BYTES
    ctx: int | None = None
    kv_type: KVCache = DEFAULT
    window: int | None = None
    stride: int | None = None
    windows: int | None = None
    reference: str | None = None
    imatrix: str | None = None
    calibration: Path | None = None
    keep: Keep | None = None
    write_base: Path | None = None
    force: bool = False
    ngl: int | None = None
    n_cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    gpu: tuple[str, ...] = ()
    workers: int | None = None
    executor: str = "local"
    tolerance: Tolerance | None = None
    min_tps: float | None = None
    max_kld: float | None = None
    min_recovery: float | None = None
    export: str | None = None
    workspace: Path | None = None
    dry_run: bool = False

    @property
    def target(self) -> Target:
        """What the variant to run has to reach."""
        return Target(self.min_tps, self.max_kld, self.min_recovery)

    @property
    def question(self) -> RunQuestion:
        """What the advice on the run is asked. The context is that of the run."""
        return RunQuestion(self.tolerance, self.target, self.gpu)
