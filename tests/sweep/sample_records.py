"""Records of a sweep that never ran, for tests of output and logic. Their figures are plausible, but not measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweep.record import Divergence, Memory, Perplexity, Record, Speed, TaskScore

TASKS = ("micro_sums", "micro_story", "micro_facts", "micro_form", "micro_code")
CHANCE = {"micro_story": 0.25, "micro_facts": 0.25}
REFERENCE = {"micro_sums": 0.884, "micro_story": 0.921, "micro_facts": 0.902, "micro_form": 0.955, "micro_code": 0.874}
ITEMS = {"micro_sums": 1000}

# variant, bits per weight, perplexity, mean divergence, share of each task lost, p of the sums
ROWS = [
    ("Q2_K", 2.96, 2.8421, 0.0312, 0.061, 1e-6),
    ("Q3_K_M", 3.91, 2.8166, 0.0108, 0.021, 0.0006),
    ("Q4_K_M", 4.85, 2.8171, 0.00381, 0.008, 0.11),
    ("Q5_K_M", 5.69, 2.8159, 0.00097, 0.003, 0.51),
    ("Q6_K", 6.57, 2.8148, 0.00051, 0.001, 1.0),
    ("Q8_0", 8.50, 2.8153, 0.000042, -0.001, 1.0),
]


def score(task: str, lost: float | None, p_value: float) -> TaskScore:
    n = ITEMS.get(task, 250)
    value = REFERENCE[task] - (lost or 0.0)
    stderr = (value * (1 - value) / n) ** 0.5
    if lost is None:
        return TaskScore("exact_match", value, stderr, n, chance=CHANCE.get(task, 0.0))
    paired = (max(abs(lost) * 2.2, 0.002) / n) ** 0.5
    flipped = abs(lost) * 2.2
    return TaskScore(
        "exact_match", value, stderr, n, -lost, paired, p_value, flipped, CHANCE.get(task, 0.0), {"strict": value}
    )


def quant(variant: str, bits: float, ppl: float, divergence: float, lost: float, p_value: float) -> Record:
    size = int(4.9e6 * bits / 8)
    return Record(
        variant,
        "gguf",
        "ok",
        file_bytes=size,
        bits_per_weight=bits,
        memory=Memory(size + 9_400_000, size + 9_812_000),
        perplexity=Perplexity(ppl, 0.0203, 61_440),
        divergence=Divergence(
            divergence, divergence * 0.03, divergence * 31, divergence * 92, 1 - divergence**0.5, 4.1e-5
        ),
        tasks={
            task: score(task, lost * (1 - 0.17 * i), p_value if i == 0 else min(1.0, p_value * 30 + 0.02 * i))
            for i, task in enumerate(TASKS)
        },
        speed=Speed(5210.0 - 90 * bits, 912.0 - 31 * bits),
        reference="BF16",
    )


@pytest.fixture
def baseline() -> Record:
    return replace(
        quant("BF16", 16.0, 2.8152, 0.0, 0.0, 1.0),
        divergence=None,
        tasks={task: score(task, None, 1.0) for task in TASKS},
    )


@pytest.fixture
def records(baseline: Record) -> list[Record]:
    return [baseline, *(quant(*row) for row in ROWS)]


@pytest.fixture
def failed() -> Record:
    return Record(
        "IQ4_XS", "gguf", "failed", "GGML_ASSERT(ne0 % 256 == 0) failed\n\x1b[31mggml.c:4711", reference="BF16"
    )


@pytest.fixture
def hostile() -> Record:
    """Names and messages that are markup in the terminal and on the page, in a record with nothing measured."""
    name = '<script>alert(1)</script>[bold red]"\x1b]0;x\x07'
    return Record(name, "gguf", "partial", "[/red]</td><img src=x onerror=alert(2)>", reference="BF16")
