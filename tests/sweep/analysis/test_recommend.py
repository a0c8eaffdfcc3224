"""The recommendation: both conditions, why the next smaller variant does not qualify, and cases without one."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest

from sweep.analysis.recommend import KLD_THRESHOLD, recommend
from sweep.record import Divergence, Memory, Record


def without(record: Record, task: str) -> Record:
    return replace(record, tasks={name: score for name, score in record.tasks.items() if name != task})


def with_kld(record: Record, mean: float) -> Record:
    return replace(record, divergence=replace(record.divergence, kld_mean=mean, kld_stderr=mean / 30))


def test_smallest_variant_that_meets_both_conditions(records):
    found = recommend(records)
    assert found.variant == "Q4_K_M"
    assert found.reasons["Q4_K_M"] == ()
    assert found.sentence == (
        "Run Q4_K_M (2.83 MiB, 4.85 bits per weight): it is the smallest variant with no significant loss on any of 5 "
        "tasks and a mean KL divergence under 0.02 nats per token. Its mean KL divergence is 0.00381 ± 0.00011 nats. "
        "The loss nearest to significance is 0.8 ± 0.4 points on micro_sums (Holm-corrected p = 1, not under 0.05). "
        "A loss of up to 2.2 points on micro_story cannot be ruled out (95 % interval). The next smaller variant, "
        "Q3_K_M (2.28 MiB, 3.91 bits per weight), loses 2.1 ± 0.7 points on micro_sums (Holm-corrected p = 0.017)."
    )


def test_the_order_of_the_records_does_not_matter(records):
    assert recommend(records[::-1]) == recommend(records)


def test_the_next_smaller_variant_is_not_one_of_the_same_size(records):
    (chosen,) = [record for record in records if record.variant == "Q4_K_M"]
    same_size = with_kld(replace(chosen, variant="IQ4_NL"), 0.03)
    for both in ([same_size, *records], [*records, same_size]):
        found = recommend(both)
        assert found.variant == "Q4_K_M"
        assert "The next smaller variant, Q3_K_M (" in found.sentence


def test_a_high_divergence_disqualifies_without_a_significant_task(records):
    records = [with_kld(r, 0.025) if r.variant == "Q4_K_M" else r for r in records]
    found = recommend(records)
    assert found.variant == "Q5_K_M"
    assert (
        "Q4_K_M (2.83 MiB, 4.85 bits per weight), has a mean KL divergence of 0.02500 ± 0.00083 nats, not under 0.02."
        in (found.sentence)
    )
    assert recommend(records, kld_threshold=0.03).variant == "Q4_K_M"


def test_the_default_threshold_separates_four_bit_from_three_bit_mixes_of_a_published_sweep():
    baseline = 6.5339
    published = {"UD-Q2_K_XL": (7.0438, 0.0970), "UD-Q3_K_XL": (6.7245, 0.0308), "UD-Q4_K_XL": (6.5918, 0.0137)}
    assert [name for name, (_, kld) in published.items() if kld < KLD_THRESHOLD] == ["UD-Q4_K_XL"]
    assert published["UD-Q4_K_XL"][0] / baseline < exp(KLD_THRESHOLD) < published["UD-Q3_K_XL"][0] / baseline


def test_a_lower_alpha_lets_more_variants_qualify(records):
    assert recommend(records, alpha=0.001).reasons["Q3_K_M"] == ()
    assert recommend(records, alpha=0.001).variant == "Q3_K_M"


def test_a_significant_gain_does_not_disqualify(records):
    def better(record: Record) -> Record:
        sums = replace(record.tasks["micro_sums"], delta=0.03, p_value=1e-9)
        return replace(record, tasks={**record.tasks, "micro_sums": sums})

    assert recommend([better(r) if r.variant == "Q4_K_M" else r for r in records]).variant == "Q4_K_M"


def test_the_limit_applies_to_predicted_memory(records):
    need = next(r.memory.predicted_bytes for r in records if r.variant == "Q4_K_M")
    fits = recommend(records, limit_bytes=need)
    assert fits.variant == "Q4_K_M"
    assert "the smallest variant that fits in 11.8 MiB with" in fits.sentence
    assert "It needs 11.8 MiB of memory (predicted)." in fits.sentence
    tight = recommend(records, limit_bytes=need - 1)
    assert tight.variant is None
    assert tight.closest == "Q3_K_M"
    assert tight.sentence.startswith("No variant within 11.8 MiB meets the conditions (no significant loss on any task")
    assert "The closest is Q3_K_M (2.28 MiB, 3.91 bits per weight): it loses" in tight.sentence


def test_if_nothing_fits_the_variant_with_the_least_memory_is_the_closest(records):
    found = recommend(records, limit_bytes=1_000_000)
    assert found.variant is None
    assert found.closest == "Q2_K"  # needs least
    assert "needs 10.7 MiB of memory (predicted), more than the limit of 977 KiB" in found.sentence


def test_a_variant_with_unknown_memory_does_not_fit(records):
    records = [replace(r, memory=Memory()) if r.variant == "Q4_K_M" else r for r in records]
    assert recommend(records, limit_bytes=10**9).variant == "Q5_K_M"
    assert recommend(records).variant == "Q4_K_M"  # without a limit it does not matter
    measured = [replace(r, memory=Memory(None, 5)) if r.variant == "Q4_K_M" else r for r in records]
    assert recommend(measured, limit_bytes=10**9).variant == "Q4_K_M"


def test_the_reference_is_recommended_if_no_smaller_variant_qualifies(records, baseline):
    bad = [with_kld(r, 0.5) if r.divergence else r for r in records]
    found = recommend(bad)
    assert found.variant == "BF16"
    assert "the reference: no smaller variant meets the conditions (" in found.sentence
    assert "The next smaller variant, Q8_0" in found.sentence


def test_failed_pending_and_unsized_variants_are_never_chosen(records, failed):
    small = replace(records[3], variant="Q1", file_bytes=10, status="failed", error="killed\nby signal 9")
    pending = replace(records[3], variant="Q0", file_bytes=9, status="pending")
    unsized = replace(records[3], variant="fq:sq", file_bytes=None)
    found = recommend([*records, failed, small, pending, unsized])
    assert found.variant == "Q4_K_M"
    assert found.reasons["Q1"] == ("failed (killed by signal 9)",)
    assert found.reasons["Q0"] == ("is not measured yet",)
    assert "has no file size" in found.reasons["fq:sq"]


def test_a_variant_without_a_figure_that_others_have_does_not_qualify(records):
    index = next(i for i, r in enumerate(records) if r.variant == "Q4_K_M")
    no_task = [*records[:index], without(records[index], "micro_code"), *records[index + 1 :]]
    assert recommend(no_task).reasons["Q4_K_M"] == ("was not compared on micro_code",)
    no_kld = [*records[:index], replace(records[index], divergence=None), *records[index + 1 :]]
    assert recommend(no_kld).reasons["Q4_K_M"] == ("has no KL divergence",)
    assert recommend(no_kld).variant == "Q5_K_M"


def test_a_condition_that_was_not_measured_is_left_out_and_reported(records):
    no_tasks = recommend([replace(r, tasks={}) for r in records])
    assert no_tasks.variant == "Q3_K_M"  # 0.0108, while Q2_K has 0.0312
    assert "No task was compared." in no_tasks.sentence
    no_kld = recommend([replace(r, divergence=None) for r in records])
    assert no_kld.variant == "Q4_K_M"
    assert "KL divergence was not measured." in no_kld.sentence


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_comparison_there_is_no_recommendation(baseline, count):
    found = recommend([replace(baseline, reference=None)] * count)
    assert found.variant is None
    assert found.sentence.startswith("No recommendation: no variant was compared with a reference")


def test_a_variant_without_its_reference_can_be_recommended(records):
    alone = [r for r in records if r.variant == "Q4_K_M"]  # its reference failed or is in another run
    assert recommend(alone).variant == "Q4_K_M"
    assert "No smaller variant was in the sweep." in recommend(alone).sentence


def test_a_divergence_that_is_not_a_number_does_not_qualify(records):
    broken = Divergence(float("nan"), 0.0, 0.0, 0.0, 0.0)
    records = [replace(r, divergence=broken) if r.variant == "Q4_K_M" else r for r in records]
    assert recommend(records).variant == "Q5_K_M"


def test_three_reasons_are_a_list_and_two_a_sentence(records):
    def closest(*lost: int) -> str:
        """The sentence for a single variant that loses on the first tasks, after "it"."""
        record = next(record for record in records if record.variant == "Q4_K_M")
        scores = {
            name: replace(score, delta=-0.1, p_value=1e-9 * (i + 1)) if i in lost else score
            for i, (name, score) in enumerate(record.tasks.items())
        }
        return recommend([with_kld(replace(record, tasks=scores), 0.5)]).sentence.partition(": it ")[2]

    two, three, four = closest(0), closest(0, 1), closest(0, 1, 2)
    assert " on micro_sums (" in two
    assert " and has a mean KL divergence of 0.500" in two
    assert two.count("; ") == 0
    assert three.count("; ") == 2
    assert (
        three.index("micro_sums") < three.index("; loses ") < three.index("micro_story") < three.index("; and has a ")
    )
    assert [name in four for name in ("micro_sums", "micro_story", "micro_facts")] == [True] * 3
    assert four.count("; loses ") == 2
    assert "; and has a mean KL divergence of" in four


def test_a_variant_without_a_task_says_which_it_lacks(records):
    rows = [without(without(one, "micro_form"), "micro_code") if one.variant == "Q4_K_M" else one for one in records]
    found = recommend(rows)
    assert found.reasons["Q4_K_M"] == ("was not compared on micro_form, micro_code",)
    assert found.variant == "Q5_K_M"


def test_the_closest_variant_has_the_fewest_reasons_then_the_least_divergence(records):
    rows = [with_kld(one, 0.9 - one.bits_per_weight / 20) for one in records if one.variant not in ("BF16", "Q2_K")]
    assert recommend(rows).closest == "Q8_0"  # none loses on a task except Q3_K_M; Q8_0 diverges least
    worst = [with_kld(one, 0.9 + one.bits_per_weight / 20) for one in rows]
    assert recommend(worst).closest == "Q4_K_M"  # Q3_K_M diverges less, but loses on a task as well
    unmeasured = [replace(one, divergence=None) if one.variant == "Q4_K_M" else one for one in worst]
    assert recommend(unmeasured).closest == "Q5_K_M"  # a missing divergence counts as the largest


def test_if_nothing_fits_the_closest_needs_the_least_memory(records):
    needs = {"Q2_K": 900, "Q3_K_M": 700, "Q4_K_M": 800}
    rows = [replace(one, memory=Memory(needs[one.variant])) for one in records if one.variant in needs]
    found = recommend(rows, limit_bytes=699)
    assert (found.variant, found.closest) == (None, "Q3_K_M")
    assert "needs 700 B of memory (predicted), more than the limit of 699 B" in found.reasons["Q3_K_M"]
    assert recommend(rows, limit_bytes=700).closest == "Q3_K_M"
    unknown = [replace(one, memory=Memory()) for one in rows]
    assert recommend(unknown, limit_bytes=699).closest == "Q2_K"  # the smallest file
    assert recommend([replace(one, status="failed") for one in rows], limit_bytes=699).closest is None


def test_variants_that_were_not_measured_say_why(records):
    statuses = {"Q2_K": ("failed", "out of\nmemory"), "Q3_K_M": ("skipped", None)}
    rows = [
        replace(one, status=statuses[one.variant][0], error=statuses[one.variant][1])
        if one.variant in statuses
        else one
        for one in records
    ]
    reasons = recommend(rows).reasons
    assert reasons["Q2_K"] == ("failed (out of memory)",)
    assert reasons["Q3_K_M"] == ("was skipped: no message",)
