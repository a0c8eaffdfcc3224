"""Simulated sweeps, whose true losses are known.

Published measurements ("An Empirical Study of Qwen3 Quantization", tables 1 to 4) give the loss for a divergence: over
seven tasks, models lose on average 20 to 30 percentage points per nat of ln(perplexity / reference's perplexity), with
a spread of about a half from model to model, and another half from task to task.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np

from sweep.record import Divergence, Perplexity, Record, TaskScore
from sweep.statistics import compare_items

POINTS_PER_NAT, SPREAD = 0.25, 0.5
TASKS = ("one", "two", "three")
LIMITS = (20, 50, 100, 200, 400, 1000)
SCORE, CHANCE = 0.7, 0.25


@dataclass(frozen=True)
class SimulatedSweep:
    """Records of one sweep, and the true mean loss over the tasks of each variant as a share."""

    records: list[Record]
    losses: dict[str, float]


def simulate(seed: int, items: int, tasks: tuple[str, ...] = TASKS, kld_says_nothing: bool = False) -> SimulatedSweep:
    """A sweep of a reference and six variants whose divergences are between 0.001 and 1.

    With `kld_says_nothing`, the true losses do not depend on the divergences.
    """
    rng = np.random.default_rng(seed)
    klds = np.exp(np.sort(rng.uniform(log(1e-3), log(1.0), 6)))
    causes = np.exp(rng.uniform(log(1e-3), log(1.0), 6)) if kld_says_nothing else klds
    right = {task: rng.random(items) < SCORE for task in tasks}
    records = [_record("BF16", 16.0, None, {task: (right[task], None) for task in tasks})]
    losses = {"BF16": 0.0}
    for place, (kld, cause) in enumerate(zip(klds, causes, strict=True)):
        name = f"Q{8 - place}"
        mean = min(0.4, POINTS_PER_NAT * cause * exp(rng.normal(0, SPREAD)))
        each = {task: min(0.6, max(0.0, mean * (1 + SPREAD * rng.normal()))) for task in tasks}
        losses[name] = sum(each.values()) / len(tasks)
        scores = {task: (right[task], _answers(right[task], each[task], sqrt(cause), rng)) for task in tasks}
        measured = kld * exp(rng.normal(0, 0.03))
        records.append(_record(name, 8.0 - place, measured, scores))
    return SimulatedSweep(records, losses)


def _answers(right: np.ndarray, loss: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Right answers become wrong and wrong ones right, so that the expected loss is `loss`."""
    won = 0.15 * noise * (1 - SCORE)
    lost = won + loss
    flipped = np.where(right, rng.random(right.size) < lost / SCORE, rng.random(right.size) < won / (1 - SCORE))
    return right ^ flipped


def _record(
    name: str, bits: float, kld: float | None, scores: dict[str, tuple[np.ndarray, np.ndarray | None]]
) -> Record:
    tasks = {}
    for task, (reference, own) in scores.items():
        answers = reference if own is None else own
        value = float(answers.mean())
        score = TaskScore("acc", value, sqrt(value * (1 - value) / answers.size), answers.size, chance=CHANCE)
        if own is not None:
            found = compare_items(reference.astype(float), own.astype(float))
            score = TaskScore(
                "acc", value, score.stderr, answers.size, found.delta, found.delta_stderr, found.p_value,
                chance=CHANCE, delta_low=found.low, delta_high=found.high,
            )  # fmt: skip
        tasks[task] = score
    return Record(
        name,
        "gguf",
        "ok",
        file_bytes=int(bits * 1e9),
        bits_per_weight=bits,
        perplexity=Perplexity(10.0, 0.1, 1000),
        divergence=None if kld is None else Divergence(kld, kld * 0.03, 0.0, 0.0, 0.9),
        tasks=tasks,
        reference="BF16",
        device="CUDA0",
    )
