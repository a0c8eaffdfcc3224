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
    """Bytes that loading and decoding take: as llama.cpp predicts without weights, and as the process took them."""

    predicted_bytes: int | None = None
    measured_bytes: int | None = None


@dataclass(frozen=True)
class Perplexity:
    """exp(mean negative log-likelihood) with its standard error, over `tokens` scored positions."""

    value: float
    stderr: float
    tokens: int


@dataclass(frozen=True)
class Divergence:
    """KL(reference || variant) in nats per token over the same scored positions."""

    kld_mean: float
    kld_stderr: float
    kld_p99_9: float
    kld_max: float
    top1_agreement: float
    noise_floor: float | None = None


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


@dataclass(frozen=True)
class Speed:
    """Tokens per second: prompt processing in full batches, decoding one sequence."""

    prompt_tokens_per_s: float
    decode_tokens_per_s: float


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
    """One variant of one sweep. `status` is "ok", "partial" (a cell failed), "failed" or "pending".

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
    kv_type: str = "f16"
    device: str = "cpu"
    samples: dict[str, Samples] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        row = asdict(replace(self, samples={}))
        del row["samples"]
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Record:
        row = dict(row)
        for name, kind in (
            ("memory", Memory),
            ("perplexity", Perplexity),
            ("divergence", Divergence),
            ("speed", Speed),
        ):
            if row.get(name) is not None:
                row[name] = kind(**row[name])
        row["tasks"] = {task: TaskScore(**score) for task, score in row["tasks"].items()}
        return cls(**row)
