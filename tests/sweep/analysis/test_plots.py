"""What the plots show: axes, points, error bars, levels and captions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweep.analysis.plots import Cost, Level, Measure, costs, measures, points
from sweep.record import Divergence, Memory, Perplexity, Record, TaskScore

MIB = 1024**2


def record(variant: str, bits: float, **more) -> Record:
    return Record(variant, "gguf", "ok", bits_per_weight=bits, reference="BF16", file_bytes=int(bits * MIB), **more)


def diverging(kld: float, floor: float | None = None) -> Divergence:
    return Divergence(kld, kld / 10, kld, kld, 1.0, floor)


def score(value: float, delta: float | None = None, error: float | None = None, chance: float = 0.0) -> TaskScore:
    return TaskScore("acc", value, 0.02, 400, delta, error, None if delta is None else 0.5, None, chance)


def rows() -> list[Record]:
    return [
        record("BF16", 16, perplexity=Perplexity(9.0, 0.1, 100), tasks={"t": score(0.8, chance=0.25)}),
        record(
            "Q4",
            4,
            perplexity=Perplexity(9.5, 0.2, 100),
            divergence=diverging(0.02, 1e-3),
            tasks={"t": score(0.7, -0.1, 0.01, chance=0.25)},
        ),
        record("Q2", 2, perplexity=Perplexity(12.0, 0.3, 100), divergence=diverging(0.3), tasks={"t": score(0.5)}),
    ]


def named(found: list[Measure], name: str) -> Measure:
    return next(measure for measure in found if measure.name == name)


def test_costs_are_in_mib_unless_a_file_has_a_gib() -> None:
    small = replace(record("a", 2.0), memory=Memory(3 * MIB))
    bits, size, memory = costs([small, record("b", 1023.9)])
    assert [(one.name, one.axis.label, one.axis.log) for one in (bits, size, memory)] == [
        ("bits", "bits per weight", False),
        ("bytes", "file size, MiB", False),
        ("memory", "memory, MiB", False),
    ]
    assert [one.of(small) for one in (bits, size, memory)] == [2.0, 2.0, 3.0]
    assert memory.of(record("b", 1.0)) is None
    bits, size, memory = costs([small, record("b", 1024)])
    assert [one.axis.label for one in (size, memory)] == ["file size, GiB", "memory, GiB"]
    assert [one.of(small) for one in (bits, size, memory)] == [2.0, 2 / 1024, 3 / 1024]
    assert [one.axis.label for one in costs([])[1:]] == ["file size, MiB", "memory, MiB"]
    assert [bits.axis.write(value) for value in (0, 0.5, 12.0, 1e-5, 2.4e-6)] == ["0", "0.5", "12", "1e-05", "2e-06"]


def test_the_measures_are_recovery_divergence_perplexity_and_tasks() -> None:
    given = rows()
    found = measures(given)
    assert [one.name for one in found] == ["Mean recovery", "Mean KL divergence", "Perplexity", "t"]
    assert [one.axis.log for one in found] == [False, True, False, False]
    assert {one.axis.label for one in found} == {""}
    assert [one.axis.write(2.5) for one in found] == ["2.5"] * 4
    recovery, divergence, perplexity, task = found
    assert recovery.caption == "score above chance in % of the reference's, mean over tasks"
    assert task.caption == "acc, %; error bars: paired difference from the reference"
    assert recovery.levels == [Level(100.0)]
    assert divergence.levels == [Level(1e-3, "noise floor of BF16")]
    assert perplexity.levels == [Level(9.0)]
    assert task.levels == [Level(80.0)]
    value = recovery.value(given[1])
    assert value is not None
    assert value.value == pytest.approx(100 * 0.45 / 0.55)
    assert value.stderr == pytest.approx(100 * error_of_recovery(0.7, 0.8, 0.25, 0.02, 0.02, 0.01))
    unpaired = recovery.value(given[2])
    assert unpaired is not None
    assert unpaired.stderr is None
    values = [task.value(one) for one in given]
    assert [None if one is None else (one.value, one.stderr) for one in values] == [
        (80.0, 0.0),  # the reference has no difference from itself
        (70.0, 1.0),
        (50.0, 2.0),  # without a difference the score's own error
    ]
    assert task.value(record("Q3", 3)) is None
    assert [one.measure for one in perplexity.losses] == ["perplexity"]
    assert [one.measure for one in recovery.losses] == ["mean recovery"]


def error_of_recovery(score: float, base: float, chance: float, own: float, other: float, paired: float) -> float:
    ratio = (score - chance) / (base - chance)
    covariance = (own**2 + other**2 - paired**2) / 2
    return float((own**2 + ratio**2 * other**2 - 2 * ratio * covariance) ** 0.5 / (base - chance))


def test_recovery_is_left_out_if_there_is_nothing_to_compare() -> None:
    assert [one.name for one in measures(rows()[:1])] == ["Mean KL divergence", "Perplexity", "t"]
    lower = {"ppl": TaskScore("word_perplexity", 12.0, 0.1, 50, higher_is_better=False)}
    found = measures([record("Q4", 4, tasks=lower)])
    assert found[-1].caption == "word_perplexity, lower is better; error bars: paired difference from the reference"
    value = found[-1].value(record("Q4", 4, tasks=lower))
    assert value is not None
    assert (value.value, value.stderr) == (12.0, 0.1)  # not in percent
    large = {"n": TaskScore("count", 12.0, 0.1, 50)}
    assert measures([record("Q4", 4, tasks=large)])[-1].caption.startswith("count; error bars")


def test_a_noise_floor_far_below_every_variant_is_not_drawn() -> None:
    def levels(floor: float) -> list[Level]:
        given = [record("Q4", 4, divergence=diverging(0.02, floor)), record("Q5", 5, divergence=diverging(0.0))]
        return list(named(measures(given), "Mean KL divergence").levels)

    assert levels(2.1e-4) == [Level(2.1e-4, "noise floor of BF16")]
    assert levels(1.9e-4) == []  # by more than a factor of 100


def test_references_with_the_same_noise_floor_share_a_line() -> None:
    a, b = record("Q4", 4, divergence=diverging(0.02, 0.01)), record("Q5", 5, divergence=diverging(0.03, 0.01))
    found = named(measures([a, replace(b, reference="F16")]), "Mean KL divergence")
    assert found.levels == [Level(0.01, "noise floor of BF16, F16")]


def test_points_have_the_figures_of_their_variants() -> None:
    given = rows()
    bits = costs(given)[0]
    perplexity = named(measures(given), "Perplexity")
    first, second, third = points(given, perplexity, bits, "Q4")
    assert [(one.x, one.y, one.label, one.variant) for one in (first, second, third)] == [
        (16, 9.0, "BF16", "BF16"),
        (4, 9.5, "Q4", "Q4"),
        (2, 12.0, "Q2", "Q2"),
    ]
    assert second.title == "Q4: 9.5 ± 0.2, 4.00 MiB, 4.00 bits per weight"
    assert second.error == pytest.approx(1.96 * 0.2)
    assert [one.chosen for one in (first, second, third)] == [False, True, False]
    assert [one.pareto for one in (first, second, third)] == [True, True, True]
    assert [one.indistinguishable for one in (first, second, third)] == [False, False, False]
    assert not any(one.chosen for one in points(given, perplexity, bits, None))
    worse = [*given, record("Q3", 3, perplexity=Perplexity(13.0, 0.1, 100))]
    assert [one.pareto for one in points(worse, perplexity_of(worse), bits, None)] == [True, True, True, False]


def perplexity_of(given: list[Record]) -> Measure:
    return named(measures(given), "Perplexity")


def test_points_without_both_figures_are_left_out_and_long_names_are_shortened() -> None:
    name = "a-very-long-name-of-a-variant.gguf"
    given = [
        Record(name, "gguf", "ok", bits_per_weight=3.0, perplexity=Perplexity(9.0, float("nan"), 10), reference="B"),
        Record("no size", "gguf", "ok", perplexity=Perplexity(9.0, 0.1, 10), reference="A"),
        record("no figure", 2),
    ]
    (point,) = points(given, perplexity_of(given), costs(given)[0], None)
    assert point.label == "a-very-lon…ariant.gguf"
    assert point.title == f"{name}: 9, –, 3.00 bits per weight"
    assert point.error is None
    assert point.group == 1  # of the references A, B and BF16
    size = Cost("size", costs(given)[1].axis, lambda one: 5.0 if one.variant == "no size" else None)
    (other,) = points(given, perplexity_of(given), size, None)
    assert (other.title, other.group) == ("no size: 9 ± 0.1, –", 0)
