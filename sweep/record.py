"""What is known of one variant after a sweep: the rows of every table, plot and JSON answer.

Field names are a contract with scripts (`sweep run --format json`); what was not measured is None.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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

    `delta` is variant minus reference over the same items, `delta_stderr` its paired standard error, `p_value` the
    exact two-sided McNemar test, `flips` the share of items whose correctness changed. All None for the reference.
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


@dataclass(frozen=True)
class Speed:
    """Tokens per second: prompt processing in full batches, decoding one sequence."""

    prompt_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True)
class Record:
    """One variant of one sweep. `status` is "ok", "partial" (a cell failed), "failed" or "pending"."""

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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

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
