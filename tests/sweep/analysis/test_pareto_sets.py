"""Leads between variants are paired by window or item, and called significant only as often as they should be."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import sqrt

import numpy as np
import pytest

from sweep import statistics
from sweep.analysis import pareto_sets, trust
from sweep.analysis.run_candidates import advise_on_records
from sweep.record import Divergence, Perplexity, Record, Samples, TaskScore
from sweep.report.html import render_html

SIZES = {"Q2": 2, "Q3": 3, "Q4": 4, "BF16": 16}


def by_window(klds: dict[str, np.ndarray], units: str = "text") -> list[Record]:
    """Records whose divergences are the means of the given windows."""
    return [
        Record(
            variant,
            "gguf",
            "ok",
            file_bytes=SIZES[variant] * 10**6,
            bits_per_weight=float(SIZES[variant]),
            divergence=Divergence(kld.mean(), kld.std() / sqrt(len(kld)), 1.0, 1.0, 0.9),
            reference="BF16",
            samples={"kld": Samples(units, kld)},
        )
        for variant, kld in klds.items()
    ]


def kld_pareto_set(records: list[Record]) -> pareto_sets.ParetoSet:
    return pareto_sets.pareto_set(records, lambda record: record.file_bytes, pareto_sets.kld_losses(records))


def by_item(scores: dict[str, np.ndarray], chance: float = 0.25, clusters: np.ndarray | None = None) -> list[Record]:
    """Records of one task, with the differences from BF16."""
    base = scores["BF16"]
    found = []
    for variant, row in scores.items():
        score = TaskScore("acc", row.mean(), row.std() / sqrt(len(row)), len(row), chance=chance)
        if variant != "BF16":
            paired = statistics.compare_items(base, row)
            score = replace(
                score,
                delta=paired.delta,
                delta_stderr=paired.delta_stderr,
                p_value=paired.p_value,
                delta_low=paired.low,
                delta_high=paired.high,
            )
        size = SIZES[variant]
        samples = {"task t": Samples("t", row, clusters)}
        found.append(
            Record(
                variant,
                "gguf",
                "ok",
                None,
                size * 10**6,
                float(size),
                tasks={"t": score},
                reference="BF16",
                samples=samples,
            )
        )
    return found


def test_a_lead_is_tested_by_paired_windows():
    """Windows differ from each other far more than two variants differ on the same window."""
    rng = np.random.default_rng(0)
    hard = rng.gamma(1.0, 0.01, 60)
    klds = {"Q3": hard * rng.gamma(400, 1 / 400, 60), "Q4": 0.9 * hard * rng.gamma(400, 1 / 400, 60)}
    lead = pareto_sets.kld_losses(by_window(klds))[0].lead("Q4", "Q3")
    unpaired = np.hypot(*(kld.std() / sqrt(60) for kld in klds.values()))
    assert lead.delta < unpaired  # unpaired, this lead would be within one error
    assert lead.significant
    assert lead.stderr == pytest.approx(statistics.paired_delta(klds["Q4"], klds["Q3"])[1], rel=0.1)
    pareto = kld_pareto_set(by_window(klds))
    assert (pareto.variants, pareto.indistinguishable) == ({"Q3", "Q4"}, {})


def test_a_variant_that_is_no_better_rarely_has_a_significant_lead():
    """If two variants have the same expected divergence, the larger one leads half the time, significantly in 2.5 %."""
    rng = np.random.default_rng(1)
    ahead = significant = 0
    for _ in range(250):
        hard = rng.gamma(2.0, 0.01, 80)
        pareto = kld_pareto_set(by_window({v: hard * rng.gamma(20, 1 / 20, 80) for v in ("Q3", "Q4")}))
        ahead += "Q4" in pareto
        significant += "Q4" in pareto and "Q4" not in pareto.indistinguishable
    assert 0.4 < ahead / 250 < 0.6
    assert significant / 250 <= 0.025 + 3 * sqrt(0.025 * 0.975 / 250)


def test_steps_that_are_each_within_the_error_may_add_up():
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.004, (3, 100))
    noise -= noise.mean(axis=1, keepdims=True)  # means as given: leads of 0.7 and 1.4 of the paired error of 0.00057
    klds = {name: 0.02 - i * 0.0008 + noise[i] for i, name in enumerate(("Q2", "Q3", "Q4"))}
    assert kld_pareto_set(by_window(klds)).indistinguishable == {
        "Q3": "Q2"
    }  # Q4 leads Q3 by as little, but Q2 significantly


def test_without_samples_of_the_same_units_there_is_no_test():
    noise = np.tile([-0.001, 0.001], 15)
    records = by_window({"Q3": np.full(30, 0.01) + 1e-5, "Q4": 0.01 + noise})
    assert kld_pareto_set(records).indistinguishable == {"Q4": "Q3"}
    bare = [replace(record, samples={}) for record in records]
    assert kld_pareto_set(bare) == pareto_sets.ParetoSet(frozenset({"Q3", "Q4"}), {})
    other = [records[0], replace(records[1], samples={"kld": Samples("another text", noise)})]
    assert pareto_sets.kld_losses(other)[0].lead("Q4", "Q3") is None
    assert "samples" not in records[0].to_json()


def test_error_of_a_recovery_is_that_of_the_delta_method():
    rng = np.random.default_rng(3)
    base = (rng.random(500) < 0.85).astype(float)
    scores = {"BF16": base, "Q4": np.where(rng.random(500) < 0.08, 0.0, base)}
    records = by_item(scores)
    (losses,) = pareto_sets.recovery_losses(records)
    own = [row.std() / sqrt(500) for row in (scores["Q4"], base)]
    paired = statistics.paired_delta(base, scores["Q4"])[1]
    expected = statistics.recovery_stderr(scores["Q4"].mean(), base.mean(), 0.25, *own, paired)
    lead = losses.lead("BF16", "Q4")
    assert lead.stderr == pytest.approx(expected, rel=0.08)
    assert lead.significant


@pytest.mark.filterwarnings("error")
def test_resamples_without_recovery_of_the_reference_widen_the_interval():
    """All possible resamples of four items, of which the reference answers three correctly."""
    base, weak = np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0])
    records = by_item({"BF16": base, "Q4": weak}, chance=0.0)
    (losses,) = pareto_sets.recovery_losses(records)
    lead = losses.lead("BF16", "Q4")
    drawn = [list(picks) for picks in product(range(4), repeat=4) if set(picks) != {3}]
    exact = [1.0 - weak[picks].sum() / base[picks].sum() for picks in drawn]
    assert len(exact) == 4**4 - 1  # in one of 256 the reference answers none correctly
    assert lead.stderr == pytest.approx(np.std(exact), rel=0.08)
    assert lead.delta == pytest.approx(2 / 3)
    # Student's tail of three degrees of freedom is thinner than that one resample
    assert (lead.low, lead.high) == (-np.inf, np.inf)
    assert not lead.significant


def test_gain_per_bit_has_the_paired_error():
    """Over many sweeps, the spread of the gain equals the error of a single sweep, and is below the unpaired error."""
    rng = np.random.default_rng(4)
    found, stated = [], []
    for _ in range(150):
        base = (rng.random(400) < 0.85).astype(float)
        weak = np.where(rng.random(400) < 0.12, 0.0, base)
        records = by_item({"BF16": base, "Q4": np.where(rng.random(400) < 0.5, base, weak), "Q2": weak})
        (gain,) = [g for g in pareto_sets.gains(records) if (g.smaller, g.larger) == ("Q2", "Q4")]
        found.append(gain.per_bit)
        stated.append(gain.stderr)
        assert gain.significant is not None
    assert np.mean(stated) == pytest.approx(np.std(found), rel=0.15)
    unpaired = next(g for g in pareto_sets.gains([replace(r, samples={}) for r in records]) if g.larger == "Q4")
    assert unpaired.significant is None
    assert unpaired.stderr > stated[-1]


def test_subjects_are_resampled_whole():
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(20), 30)
    harmed = np.isin(clusters, [3, 7])
    base = (rng.random(600) < 0.7).astype(float)
    scores = {"BF16": base, "Q4": np.where(harmed, 0.0, base)}
    by_subject = pareto_sets.task_losses(by_item(scores, clusters=clusters), "t")[0].lead("BF16", "Q4")
    by_itself = pareto_sets.task_losses(by_item(scores), "t")[0].lead("BF16", "Q4")
    assert by_subject.stderr > 3 * by_itself.stderr
    assert by_itself.significant
    assert not by_subject.significant


def test_the_note_on_perplexity_says_whether_the_rise_exceeds_the_paired_error(records):
    rng = np.random.default_rng(6)
    shared = rng.normal(0.8, 0.3, 100)

    def note(rise: float) -> str:
        rows = by_window({"Q3": np.full(100, 0.02), "Q4": np.full(100, 0.01)})
        nll = {"Q3": shared, "Q4": shared + rng.normal(0, 0.01, 100)}
        nll["Q4"] += rise - (nll["Q4"] - shared).mean()
        return trust.trust_notes(
            [
                replace(
                    row,
                    perplexity=Perplexity(float(np.exp(nll[row.variant].mean())), 0.1, 100),
                    samples={**row.samples, "nll": Samples("text", nll[row.variant])},
                )
                for row in rows
            ]
        )[0]

    assert note(0.0005).endswith(", within the error of their difference.")
    assert note(0.01).endswith(", by more than the error of their difference.")
    assert note(0.01).startswith("Trust KL divergence rather than perplexity. KL divergence falls from each variant")


def test_there_is_no_note_on_perplexity_if_the_divergence_rises_too(records):
    """If a larger variant is worse by both, it is worse. Here perplexity rises only at Q5_K_M."""
    names = [record.variant for record in sorted(records, key=lambda record: record.bits_per_weight)]
    values = {name: 2.9 - 0.01 * i + 0.05 * (name == "Q5_K_M") for i, name in enumerate(names)}
    rising = [replace(r, perplexity=replace(r.perplexity, value=values[r.variant])) for r in records]
    (note,) = [note for note in trust.trust_notes(rising) if note.startswith("Trust")]
    assert "perplexity rises from Q4_K_M (2.8800) to the larger Q5_K_M (2.9200)" in note
    shared = [
        replace(r, divergence=replace(r.divergence, kld_mean=0.05)) if r.variant == "Q5_K_M" else r for r in rising
    ]
    assert not any(note.startswith("Trust") for note in trust.trust_notes(shared))


def test_the_page_marks_an_indistinguishable_point_and_names_the_other_one():
    rng = np.random.default_rng(7)
    hard = rng.gamma(2.0, 0.01, 80)
    noise = rng.normal(0, 1, 80)
    klds = {"Q2": 3 * hard, "Q3": hard, "Q4": hard - 1e-5 + 1e-3 * (noise - noise.mean())}
    records = by_window(klds)
    page = render_html(records, {}, advise_on_records(records))
    assert "in the Pareto set, but indistinguishable from Q3" in page
    assert page.count('class="point on indistinguishable"') == 2  # against bits and against bytes
    assert "○ In it too, but indistinguishable (95 %, paired) from the next smaller ●" in page


def test_a_gain_without_samples_has_the_error_of_independent_recoveries():
    def scored(variant: str, bits: float, value: float, stderr: float | None) -> Record:
        paired = TaskScore("acc", value, 0.01, 400, None if variant == "BF16" else value - 0.9, stderr, 0.5)
        return Record(variant, "gguf", "ok", bits_per_weight=bits, tasks={"t": paired}, reference="BF16")

    rows = [scored("BF16", 16, 0.9, None), scored("Q4", 4, 0.81, 0.01), scored("Q2", 2, 0.72, 0.02)]
    errors = [
        statistics.recovery_stderr(value, 0.9, 0.0, 0.01, 0.01, own) for value, own in ((0.81, 0.01), (0.72, 0.02))
    ]
    low, high = pareto_sets.gains(rows)
    assert (low.smaller, low.larger, high.smaller, high.larger) == ("Q2", "Q4", "Q4", "BF16")
    assert low.per_bit == pytest.approx((0.9 - 0.8) / 2)
    assert low.stderr == pytest.approx(np.hypot(*errors) / 2)
    assert high.per_bit == pytest.approx((1.0 - 0.9) / 12)
    assert high.stderr == pytest.approx(errors[0] / 12)  # the reference's own recovery is exact
    assert (low.significant, high.significant) == (None, None)
    (gain,) = pareto_sets.gains([rows[0], scored("Q4", 4, 0.81, None)])
    assert gain.stderr is None
    assert pareto_sets.gains([rows[0], replace(rows[1], bits_per_weight=16.0)]) == []


def test_the_set_for_tables_is_by_the_best_measure_that_there_is(records):
    in_order = [record.variant for record in records]
    found, measure = pareto_sets.set_for_tables(records)
    assert measure == "mean KL divergence"
    assert found.variants == set(in_order)
    no_kld = [replace(record, divergence=None) for record in records]
    found, measure = pareto_sets.set_for_tables(no_kld)
    assert measure == "mean recovery"
    assert found.variants == set(in_order) - {"BF16"}  # Q8_0 is better and smaller
    no_tasks = [replace(record, tasks={}) for record in no_kld]
    found, measure = pareto_sets.set_for_tables(no_tasks)
    assert measure == "perplexity"
    assert found.variants == {"Q2_K", "Q3_K_M", "Q5_K_M", "Q6_K"}
    assert pareto_sets.set_for_tables([replace(record, perplexity=None) for record in no_tasks]) == (
        pareto_sets.ParetoSet(),
        "",
    )


def test_units_are_windows_items_or_subjects():
    rng = np.random.default_rng(8)
    (losses,) = pareto_sets.kld_losses(by_window({"Q4": rng.random(30), "Q2": rng.random(30)}))
    assert (losses.units, set(losses.resampled)) == (30, {"Q4", "Q2"})
    scores = {name: (rng.random(60) < 0.7).astype(float) for name in ("BF16", "Q4")}
    clusters = np.repeat(np.arange(12), 5)
    assert pareto_sets.task_losses(by_item(scores), "t")[0].units == 60
    assert pareto_sets.task_losses(by_item(scores, clusters=clusters), "t")[0].units == 12
    (recovered,) = pareto_sets.recovery_losses(by_item(scores, clusters=clusters))
    assert (recovered.measure, recovered.units) == ("mean recovery", 12)
    assert np.nanmean(recovered.resampled["Q4"]) == pytest.approx(recovered.values["Q4"], abs=0.1)
    nll = by_window({"Q4": rng.random(30), "Q2": rng.random(30)})
    nll = [
        replace(row, perplexity=Perplexity(2.0, 0.1, 30), samples={"nll": Samples("text", row.samples["kld"].values)})
        for row in nll
    ]
    assert pareto_sets.perplexity_losses(nll)[0].units == 30
    (two,) = pareto_sets.kld_losses(by_window({"Q4": rng.random(2), "Q2": rng.random(2)}))
    assert (two.units, len(two.resampled)) == (2, 2)
    (one,) = pareto_sets.kld_losses(by_window({"Q4": rng.random(1), "Q2": rng.random(1)}))
    assert one.resampled == {}
