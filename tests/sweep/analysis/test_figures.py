"""Figures computed from several records: Holm's correction, recovery, Pareto sets, gain per bit."""

from __future__ import annotations

from dataclasses import replace
from math import nan, sqrt

import pytest
from scipy import stats

from sweep.analysis import figures, pareto_sets, trust
from sweep.record import Divergence, Memory, Perplexity, Record, TaskScore, Value


def scored(variant: str, bits: float, scores: dict[str, TaskScore], reference: str | None = "BF16", **more) -> Record:
    return Record(
        variant,
        "gguf",
        "ok",
        file_bytes=int(bits * 1e6),
        bits_per_weight=bits,
        tasks=scores,
        reference=reference,
        **more,
    )


def acc(value: float, delta: float | None = None, p: float | None = None, chance: float = 0.25, **more) -> TaskScore:
    stderr = None if delta is None else 0.01
    return TaskScore("acc", value, 0.02, 400, delta, stderr, p, None, chance, **more)


def test_holm_runs_over_every_variant_and_task_of_the_sweep():
    records = [
        scored("BF16", 16, {"a": acc(0.9), "b": acc(0.8)}),
        scored("Q4", 4, {"a": acc(0.86, -0.04, 0.02), "b": acc(0.8, 0.0, 1.0)}),
        scored("Q2", 2, {"a": acc(0.7, -0.2, 0.001), "b": acc(0.85, 0.05, 0.01)}),
    ]
    tests = figures.task_tests(records)
    assert {key: test.adjusted for key, test in tests.items()} == {
        ("Q4", "a"): pytest.approx(0.04),  # third of four: 2 x 0.02
        ("Q4", "b"): 1.0,
        ("Q2", "a"): pytest.approx(0.004),
        ("Q2", "b"): pytest.approx(0.03),
    }
    assert [key for key, test in tests.items() if test.is_loss()] == [("Q4", "a"), ("Q2", "a")]
    assert [key for key, test in tests.items() if test.is_gain()] == [("Q2", "b")]  # a gain is not a loss
    assert not figures.task_tests([*records, scored("Q3", 3, {"a": acc(0.86, -0.04, 0.02)})])[("Q4", "a")].is_loss()


def test_p_values_that_the_run_corrected_are_used():
    """A report of some variants of a run is still corrected for all tests of the run."""
    alone = scored("Q4", 4, {"a": replace(acc(0.86, -0.04, 0.02), p_holm=0.3)})
    assert figures.task_tests([alone])[("Q4", "a")].adjusted == 0.3
    older = scored("Q2", 2, {"a": acc(0.86, -0.04, 0.02)})  # a record without a corrected p: all are corrected here
    assert figures.task_tests([alone, older])[("Q4", "a")].adjusted == pytest.approx(0.04)


def test_a_higher_value_is_a_loss_if_lower_is_better():
    worse = TaskScore("word_perplexity", 12.0, 0.1, 50, 0.5, 0.01, 1e-9, higher_is_better=False)
    test = figures.task_tests([scored("Q2", 2, {"text": worse})])[("Q2", "text")]
    assert test.is_loss()
    assert not test.is_gain()


def test_a_difference_without_a_p_value_is_tested_by_its_error():
    test = figures.task_tests([scored("Q2", 2, {"a": acc(0.88, -0.02, None)})])[("Q2", "a")]
    assert test.p_value == pytest.approx(2 * stats.norm.cdf(-2.0))
    assert figures.task_tests([scored("Q2", 2, {"a": replace(acc(0.88, -0.02), delta_stderr=0.0)})]) == {}


def test_recovery_is_the_share_of_what_the_reference_has_above_chance():
    records = [scored("BF16", 16, {"a": acc(0.85)}), scored("Q4", 4, {"a": acc(0.70, -0.15, 0.1)})]
    recovered = figures.recovery(records)
    assert recovered["Q4"]["a"].value == pytest.approx((0.70 - 0.25) / (0.85 - 0.25))
    assert recovered["BF16"]["a"] == figures.Figure(1.0, 0.0)
    covariance = (0.02**2 + 0.02**2 - 0.01**2) / 2
    variance = 0.02**2 + 0.75**2 * 0.02**2 - 2 * 0.75 * covariance
    assert recovered["Q4"]["a"].stderr == pytest.approx(sqrt(variance) / 0.6)


def test_a_reference_at_chance_recovers_nothing():
    records = [
        scored("BF16", 16, {"a": acc(0.85), "guess": acc(0.28)}),  # 0.03 above chance, within two errors of 0.02
        scored("Q4", 4, {"a": acc(0.70, -0.15, 0.1), "guess": acc(0.31, 0.03, 0.5)}),
    ]
    assert set(figures.recovery(records)["Q4"]) == {"a"}
    assert figures.mean_recovery(records)["Q4"].value == pytest.approx(0.75)


def test_a_mean_over_fewer_tasks_than_the_reference_is_not_given():
    records = [
        scored("BF16", 16, {"a": acc(0.85), "b": acc(0.65)}),
        scored("Q4", 4, {"a": acc(0.85, 0.0, 1.0)}),
        scored("Q2", 2, {"a": acc(0.55, -0.3, 0.1), "b": acc(0.45, -0.2, 0.1)}),
    ]
    assert set(figures.mean_recovery(records)) == {"BF16", "Q2"}
    assert figures.mean_recovery(records)["Q2"].value == pytest.approx(0.5)


def test_gains_are_slopes_between_neighbours_of_the_pareto_set():
    records = [
        scored("BF16", 16, {"a": acc(0.85)}),
        scored("Q2", 2, {"a": acc(0.55, -0.3, 0.1)}),  # recovery 0.5
        scored("Q3", 3, {"a": acc(0.52, -0.33, 0.1)}),  # larger and worse than Q2: not on the set
        scored("Q4", 4, {"a": acc(0.79, -0.06, 0.1)}),  # recovery 0.9
    ]
    gains = pareto_sets.gains(records)
    assert [(gain.smaller, gain.larger) for gain in gains] == [("Q2", "Q4"), ("Q4", "BF16")]
    assert [gain.per_bit for gain in gains] == pytest.approx([0.4 / 2, 0.1 / 12])


def test_accuracy_divided_by_bits_would_prefer_the_smallest_and_the_gain_does_not():
    records = [
        scored("BF16", 16, {"a": acc(0.85)}),
        scored("Q2", 2, {"a": acc(0.45, -0.40, 1e-9)}),  # it lost two thirds of its score above chance
        scored("Q4", 4, {"a": acc(0.84, -0.01, 0.9)}),
    ]
    ratio = {record.variant: record.tasks["a"].value / record.bits_per_weight for record in records}
    assert max(ratio, key=ratio.get) == "Q2"
    assert pareto_sets.gains(records)[0].per_bit == pytest.approx((0.84 - 0.45) / 0.6 / 2)


def divergence(mean: float, floor: float | None = None) -> Divergence:
    return Divergence(mean, mean / 10, mean * 20, mean * 50, 0.95, floor)


def test_divergences_from_two_references_are_never_compared():
    records = [
        scored("BF16", 16, {}),
        scored("Q8", 8, {}, divergence=divergence(0.001)),
        scored("torch:BF16", 16, {}, "torch:BF16"),
        scored("int8", 8.2, {}, "torch:BF16", divergence=divergence(0.01)),
    ]
    pareto = pareto_sets.pareto_set(records, lambda record: record.file_bytes, pareto_sets.kld_losses(records)).variants
    assert pareto == {
        "BF16",
        "Q8",
        "torch:BF16",
        "int8",
    }  # Q8 is smaller and has a lower divergence, but from another reference
    assert trust.trust_notes([*records, scored("Q6", 6, {}, divergence=divergence(0.002))])[-1] == (
        "There are 2 references: torch:BF16 for int8; BF16 for the other variants. "
        "KL divergences from different references cannot be compared: each variant is judged against its own reference."
    )
    assert not any("cannot be compared" in note for note in trust.trust_notes(records[:2]))


def test_the_note_on_perplexity_appears_only_if_perplexity_rises(records):
    notes = trust.trust_notes(records)
    assert notes[0].startswith(
        "Trust KL divergence rather than perplexity. KL divergence falls from each variant to the"
    )
    by_name = {record.variant: record for record in records}
    values = {name: 3.0 - 0.01 * i for i, name in enumerate(r.variant for r in figures.by_size(records))}
    falling = [replace(r, perplexity=replace(r.perplexity, value=values[r.variant])) for r in by_name.values()]
    assert not any("Trust" in note for note in trust.trust_notes(falling))
    no_kld = [replace(record, divergence=None) for record in records]
    assert not any("Trust" in note for note in trust.trust_notes(no_kld))


def test_variants_below_the_noise_floor_are_named():
    records = [
        scored("BF16", 16, {}),
        scored("Q8", 8, {}, divergence=divergence(0.0001, 0.0002)),
        scored("Q4", 4, {}, divergence=divergence(0.01, 0.0002)),
    ]
    (note,) = trust.trust_notes(records)
    assert "0.00020 nats:" in note
    assert note.endswith("Not above it: Q8.")


def test_a_figure_that_is_not_a_number_is_missing_not_zero():
    broken = scored("Q4", 4, {"a": TaskScore("acc", nan, nan, 400, nan, nan, nan)}, divergence=divergence(nan))
    assert figures.kld(broken) is None
    assert figures.task_tests([broken]) == {}
    assert figures.recovery([scored("BF16", 16, {"a": acc(0.8)}), broken]).get("Q4") is None
    assert pareto_sets.pareto_set(
        [scored("BF16", 16, {}), broken],
        lambda record: record.file_bytes,
        pareto_sets.kld_losses([scored("BF16", 16, {}), broken]),
    ).variants == {"BF16"}


def test_the_effect_of_shared_prefixes_is_reported_once(records: list[Record]) -> None:
    def checked(record: Record, task: str, questions: int, difference: float, changed: int) -> Record:
        figures_of = {
            "sharing_questions": questions,
            "sharing_difference": difference,
            "sharing_changed": changed,
        }
        return replace(record, tasks=record.tasks | {task: replace(record.tasks[task], **figures_of)})

    assert not any("prefix that questions" in note for note in trust.trust_notes(records))
    some = [checked(records[0], "micro_facts", 9, 0.012, 0), checked(records[1], "micro_story", 1200, 0.034, 0)]
    (note,) = [note for note in trust.trust_notes(some) if "prefix that questions" in note]
    assert note == (
        "A prefix that questions share is computed once. As a check, 1,209 sampled questions were also scored alone: "
        "no answer changed, and log-likelihoods changed by at most 0.034 nats (micro_story of Q2_K)."
    )
    turned = [checked(record, "micro_facts", 5, 0.02, 1) for record in records[:2]]
    assert any("2 answers changed" in note for note in trust.trust_notes(turned))


def test_scores_are_shown_in_percent_only_if_every_score_is_a_share():
    rows = [
        scored("A", 4, {"a": acc(0.0), "b": acc(1.0), "c": acc(1.5), "d": acc(-0.1), "e": acc(nan), "f": acc(0.5)}),
        scored("B", 5, {"a": acc(0.5), "c": acc(0.5), "f": acc(0.5, higher_is_better=False)}),
    ]
    assert figures.task_scales(rows) == {"a": 100, "b": 100, "c": 1, "d": 1, "e": 100, "f": 1}


def test_tasks_whose_units_are_subjects_are_named():
    rows = [scored("A", 4, {"a": acc(0.5, clusters=57), "b": acc(0.5), "c": acc(0.5, clusters=12)})]
    assert figures.subject_notes(rows) == [
        "Errors and tests treat whole subjects, not items, as independent: a (57 subjects), c (12 subjects)."
    ]
    assert figures.subject_notes([scored("A", 4, {"b": acc(0.5)})]) == []


def test_what_scores_are_compared_with_is_named():
    assert figures.reference_words([scored("A", 4, {})]) == "the reference"
    assert figures.reference_words([scored("A", 4, {}, task_reference="BF16")]) == "the reference"
    files = [scored(name, 4, {}, task_reference=base) for name, base in (("A", "Q8"), ("B", "Q6"), ("C", None))]
    assert figures.reference_words(files) == "Q6 and Q8"
    assert figures.task_references(files) == {"Q6", "Q8", "BF16"}
    assert figures.task_names([scored("A", 4, {"b": acc(0.5)}), scored("B", 4, {"a": acc(0.5), "b": acc(0.5)})]) == [
        "b",
        "a",
    ]


def test_figures_are_taken_from_the_record_or_missing():
    empty = scored("A", 4, {})
    assert (figures.kld(empty), figures.perplexity(empty), figures.memory(empty)) == (None, None, None)
    full = replace(
        empty,
        divergence=Divergence(0.5, 0.1, 1.0, 2.0, 0.9),
        perplexity=Perplexity(9.0, 0.2, 10),
        memory=Memory(None, 7),
        figures={"x": Value(1.0)},
    )
    assert figures.kld(full) == figures.Figure(0.5, 0.1)
    assert figures.perplexity(full) == figures.Figure(9.0, 0.2)
    assert figures.memory(full) == (7, "measured")
    assert figures.memory(replace(full, memory=Memory(5, 7))) == (5, "predicted")
    assert figures.extra_figures([full, replace(full, figures={"x": Value(2.0), "y": Value(3.0)})]) == {
        "x": Value(1.0),
        "y": Value(3.0),
    }
    assert figures.figure(nan, 0.1) is None
    assert figures.figure(1.0, nan) == figures.Figure(1.0, None)


def test_records_are_ordered_by_bits_then_bytes_and_those_without_come_last():
    names = [("a", None, 5), ("b", 4.0, 9), ("c", 4.0, 8), ("d", nan, 2), ("e", 3.0, None)]
    rows = [Record(name, "gguf", "ok", bits_per_weight=bits, file_bytes=size) for name, bits, size in names]
    assert [row.variant for row in figures.by_size(rows)] == ["e", "c", "b", "d", "a"]


def test_p_values_and_intervals_come_from_the_record_or_from_the_normal_distribution():
    def test_of(score: TaskScore) -> figures.TaskTest | None:
        return figures.task_tests([scored("Q4", 4, {"a": score})]).get(("Q4", "a"))

    stated = test_of(acc(0.9, -0.04, 0.02, delta_low=-0.07, delta_high=-0.01))
    assert (stated.p_value, stated.interval, stated.delta_stderr) == (0.02, (-0.07, -0.01), 0.01)
    computed = test_of(acc(0.9, -0.02, None))
    assert computed.p_value == pytest.approx(2 * stats.norm.sf(2.0))
    assert computed.interval == pytest.approx((-0.02 - 1.96 * 0.01, -0.02 + 1.96 * 0.01))
    assert [test_of(acc(0.9, -0.02, p)).p_value for p in (0.0, 1.0)] == [0.0, 1.0]
    assert [test_of(acc(0.9, -0.02, p)) for p in (-0.1, 1.1)] == [None, None]
    assert test_of(replace(acc(0.9, -0.02, None), delta_stderr=0.0)) is None
    assert test_of(replace(acc(0.9, -0.02, 0.5), delta_stderr=None)).interval is None
    assert test_of(acc(0.9)) is None


def test_a_loss_must_be_below_alpha_and_in_the_right_direction():
    found = figures.TaskTest("Q4", "a", -0.1, 0.01, None, 0.05, 0.05, lower_is_better=False)
    assert not found.is_loss()
    assert found.is_loss(0.051)
    assert not replace(found, lower_is_better=True).is_gain()
    assert replace(found, lower_is_better=True).is_gain(0.051)
    assert not replace(found, delta=0.0, adjusted=0.0).worse
    assert not replace(found, delta=0.0, adjusted=0.0).is_gain()
    assert not replace(found, delta=0.0, adjusted=0.0, lower_is_better=True).is_loss()


def test_mean_recovery_needs_the_same_tasks_and_every_error():
    base = scored("BF16", 16, {"a": acc(0.85), "b": acc(0.65)})
    rows = [
        base,
        scored("Q4", 4, {"a": acc(0.75, -0.1), "b": acc(0.55, -0.1)}),
        scored("Q3", 3, {"a": acc(0.75, -0.1)}),
        scored("Q2", 2, {"a": acc(0.75), "b": acc(0.55, -0.1)}),
        scored("other", 4, {"a": acc(0.75)}, reference="absent"),
    ]
    single = figures.recovery(rows)["Q4"]
    found = figures.mean_recovery(rows)
    assert list(found) == ["BF16", "Q4", "Q2"]
    assert found["BF16"] == figures.Figure(1.0, 0.0)
    assert found["Q4"].value == pytest.approx((0.5 / 0.6 + 0.3 / 0.4) / 2)
    assert found["Q4"].stderr == pytest.approx(sqrt(single["a"].stderr ** 2 + single["b"].stderr ** 2) / 2)
    assert found["Q2"].stderr is None  # a task has no paired difference


def test_a_reference_within_two_errors_of_chance_has_no_recovery():
    def tasks_of(reference: float, **more) -> set[str]:
        rows = [scored("BF16", 16, {"a": acc(reference, **more)}), scored("Q4", 4, {"a": acc(0.3, -0.1, **more)})]
        return {variant for variant, tasks in figures.recovery(rows).items() if tasks}

    assert tasks_of(0.2901) == {"BF16", "Q4"}  # chance is 0.25, two errors are 0.04
    assert tasks_of(0.2899) == set()
    assert tasks_of(0.9, higher_is_better=False) == set()
