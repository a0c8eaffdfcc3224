"""What is known of one variant after a sweep: the rows of every table, plot and JSON answer.

Field names are a contract with scripts (`sweep run --format json`); what was not measured is None.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Memory:
    """Bytes that loading and decoding take: as llama.cpp predicts without weights, and as the process took them.

    `measured_bytes` are those where the model is placed: `device_bytes` (of all GPUs; 0 where it is on none, None where
    the driver does not tell them by process), or `host_bytes` where it is on no GPU.
    """

    predicted_bytes: int | None = None
    measured_bytes: int | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None


@dataclass(frozen=True)
class Perplexity:
    """exp(mean negative log-likelihood) with its standard error, over `tokens` scored positions.

    `low` and `high` bound the 95 % interval that resampling windows of the text gives.
    """

    value: float
    stderr: float
    tokens: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Confidence:
    """The divergence where the reference gave its most probable token a chance of `low` up to `high`."""

    low: float
    high: float
    tokens: int
    kld_mean: float
    top1_agreement: float


@dataclass(frozen=True)
class Divergence:
    """KL(reference || variant) in nats per token over the same scored positions, and what else they tell.

    `kld_stderr` takes windows of the text as the units, `kld_low` and `kld_high` bound the 95 % interval that
    resampling them gives; every other standard error takes positions as independent, as llama-perplexity does.
    `sampling_stderr` is the part of the mean's error that comes of sampling the reference's tail.
    `perplexity_*`: of the reference over the same positions, and the variant's against it. `delta_p_*`: the
    probability of the text's next token, variant minus reference. Percentiles are keyed by per cent, "0" is the
    least and "100" the greatest.
    """

    kld_mean: float
    kld_stderr: float
    kld_p99_9: float
    kld_max: float
    top1_agreement: float
    noise_floor: float | None = None
    kld_low: float | None = None
    kld_high: float | None = None
    kld_token_stderr: float | None = None
    kld_percentiles: dict[str, float] = field(default_factory=dict)
    sampling_stderr: float | None = None
    top1_stderr: float | None = None
    perplexity_reference: float | None = None
    perplexity_reference_stderr: float | None = None
    perplexity_correlation: float | None = None
    perplexity_log_ratio: float | None = None
    perplexity_log_ratio_stderr: float | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_stderr: float | None = None
    perplexity_difference: float | None = None
    perplexity_difference_stderr: float | None = None
    delta_p_mean: float | None = None
    delta_p_stderr: float | None = None
    delta_p_rms: float | None = None
    delta_p_rms_stderr: float | None = None
    delta_p_percentiles: dict[str, float] = field(default_factory=dict)
    by_confidence: tuple[Confidence, ...] = ()


@dataclass(frozen=True)
class TaskScore:
    """One task: its primary metric, and the paired difference to the reference variant.

    `delta` is variant minus reference over the same items, `delta_stderr` its paired standard error, `delta_low` to
    `delta_high` its 95 % interval, `p_value` the exact two-sided McNemar test, `p_holm` the same after Holm over all
    variants and tasks of the run, `flips` the share of items whose correctness changed, `answers_changed` the share
    whose answer did (from one wrong answer to another too). `gold_delta`, `gold_delta_stderr` and `gold_p_value` are of
    the probability of the right choice among the choices. All None for the reference.
    `clusters` is how many subjects were taken as the independent units, None where the items were.
    `chance` is what blind guessing scores, `higher_is_better` the metric's direction, `other` further metrics.
    Common prefixes are computed once; of a sample of `sharing_questions` scored by themselves, `sharing_changed` got
    another answer, and no log-likelihood of a choice moved by more than `sharing_difference` (nats). None where answers
    are generated, or where there were too few for a sample.
    """

    metric: str
    value: float
    stderr: float
    n: int
    delta: float | None = None
    delta_stderr: float | None = None
    p_value: float | None = None
    flips: float | None = None
    chance: float = 0.0
    other: dict[str, float] = field(default_factory=dict)
    higher_is_better: bool = True
    delta_low: float | None = None
    delta_high: float | None = None
    p_holm: float | None = None
    answers_changed: float | None = None
    clusters: int | None = None
    gold_delta: float | None = None
    gold_delta_stderr: float | None = None
    gold_p_value: float | None = None
    sharing_questions: int | None = None
    sharing_difference: float | None = None
    sharing_changed: int | None = None


@dataclass(frozen=True)
class Speed:
    """Tokens per second: prompt processing in full batches, decoding one sequence; and how long loading took."""

    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    load_seconds: float | None = None


@dataclass(frozen=True)
class Value:
    """A figure of a further kind of measurement, its standard error (None where it has none), and how it is shown: its
    heading, its unit, how many decimals."""

    value: float
    stderr: float | None = None
    heading: str = ""
    unit: str = ""
    decimals: int = 3


@dataclass(frozen=True)
class Samples:
    """What a figure is the mean of: one value a unit, float64 (n,); a unit is a window of the text or a task's item.

    Samples of the same `units` are of the same units in the same order, so their differences are paired. `clusters`
    (n,) names each unit's subject where subjects are the independent units.
    """

    units: str
    values: NDArray[np.float64]
    clusters: NDArray[np.intp] | None = None


@dataclass(frozen=True)
class Record:
    """One variant of one sweep. `status` is "ok", "partial" (a cell failed), "failed", "pending" or "skipped".

    `error` is what failed first, or why it was skipped.

    `settings` are the thread count, batches, context and placement that it was measured with, and the engine.

    `task_reference` is what task differences are to: the reference or, where that is a file, which answers no task, the
    variant that it was made of; where that is not known, the one of the most bits per weight.

    `figures` are those of further kinds of measurement, by their names.

    `samples` are what the figures are means of ("kld" and "nll" in nats by window, "task NAME" by item), for whoever
    compares two variants with each other; they are not part of the JSON.
    """

    variant: str
    kind: str
    status: str
    error: str | None = None
    file_bytes: int | None = None
    bits_per_weight: float | None = None
    memory: Memory = Memory()
    perplexity: Perplexity | None = None
    divergence: Divergence | None = None
    tasks: dict[str, TaskScore] = field(default_factory=dict)
    speed: Speed | None = None
    reference: str | None = None
    task_reference: str | None = None
    kv_type: str = "f16"
    device: str = "cpu"
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Value] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        row = asdict(replace(self, samples={}))
        del row["samples"]
        return row
