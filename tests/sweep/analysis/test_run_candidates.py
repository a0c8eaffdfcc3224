"""The advice on the records of a run: which variant, what excludes the others, and what the items leave open."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from simulated_sweeps import LIMITS, simulate

from presets.advice import Tolerance, advice_rules
from sweep.analysis.advice import Advice, to_json
from sweep.analysis.candidate import Commands
from sweep.analysis.run_candidates import advise_on_records
from sweep.record import Divergence, MeasuredText, Memory, Record, Speed, TaskScore, TextFigures
from sweep.statistics import compare_items
from sweep.target import Target


def without(record: Record, task: str) -> Record:
    return replace(record, tasks={name: score for name, score in record.tasks.items() if name != task})


def with_kld(record: Record, mean: float) -> Record:
    return replace(record, divergence=replace(record.divergence, kld_mean=mean, kld_stderr=mean / 30))


def change(records: list[Record], variant: str, **changes: object) -> list[Record]:
    return [replace(one, **changes) if one.variant == variant else one for one in records]


def excluded(advice: Advice) -> dict[str, str]:
    return {one.variant: one.reason for one in advice.excluded}


def test_the_smallest_variant_whose_loss_nobody_notices(records):
    found = advise_on_records(records, "micro")
    assert found.variant == "Q4_K_M"
    assert found.confidence == "measured"
    assert found.reason == (
        "Run Q4_K_M (2.83 MiB, 762 tokens/s). Its measured KL divergence is 0.0038 nats per token (95 % interval "
        "0.0036 to 0.0040). On average over 5 tasks it loses 0.5 points, and a loss of more than 1.0 is ruled out "
        "(95 % confidence); 2 would be tolerated. The smaller Q3_K_M loses 2.1 ± 0.7 points on micro_sums "
        "(Holm-corrected p = 0.017)."
    )


def test_the_order_of_the_records_does_not_matter(records):
    assert advise_on_records(records[::-1]) == advise_on_records(records)


def test_a_divergence_that_is_noticed_is_paid_for_with_a_larger_file(records):
    assert advise_on_records([with_kld(r, 0.01) if r.variant == "Q4_K_M" else r for r in records]).variant == "Q5_K_M"


def test_of_several_texts_the_one_on_which_a_variant_loses_most_decides(records):
    def with_code(record: Record, mean: float) -> Record:
        own = TextFigures(record.perplexity, replace(record.divergence, kld_mean=mean, kld_stderr=mean / 30))
        return replace(record, text=MeasuredText("words", "w", 512), other_texts={"code.py": own})

    losses = {"Q2_K": 0.5, "Q3_K_M": 0.2, "Q4_K_M": 0.018, "Q5_K_M": 0.0005, "Q6_K": 0.0002, "Q8_0": 0.0001}
    several = [with_code(one, losses[one.variant]) if one.variant in losses else one for one in records]
    found = advise_on_records(several, "micro")
    assert found.variant == "Q5_K_M"
    assert "Its measured KL divergence at the tokens of words is 0.00097 nats" in found.reason
    bound = advise_on_records(several, "micro", target=Target(max_kld=0.02))
    assert bound.variant == "Q4_K_M"
    assert "at the tokens of code.py is 0.018 nats" in bound.reason


def test_every_other_variant_has_a_reason(records):
    found = advise_on_records(records)
    assert found.why_not("Q3_K_M") == "loses 2.1 ± 0.7 points on micro_sums (Holm-corrected p = 0.017)"
    assert found.why_not("Q8_0").startswith("is larger, and nobody notices what it gains")
    assert found.why_not("Q4_K_M") == found.why_not("unknown") == ""
    tight = advise_on_records([with_kld(r, 0.01) if r.variant == "Q4_K_M" else r for r in records])
    assert tight.why_not("Q4_K_M") == "has a higher KL divergence: 0.010 nats"


def test_a_loss_within_the_tolerance_does_not_exclude(records):
    assert excluded(advise_on_records(records, tolerance=Tolerance(0.03))).get("Q3_K_M") is None
    of_score = advise_on_records(records, tolerance=Tolerance(0.05, of_score=True))
    assert of_score.pick is not None
    assert of_score.pick.tasks is not None
    assert 0.02 < of_score.pick.tasks.tolerance < 0.05


def test_a_loss_that_only_all_tasks_together_show_excludes_a_variant(baseline, records):
    base = np.repeat([1.0, 0.0], [250, 50])
    row = base.copy()
    row[:7] = 0.0  # p = 0.016 on each task, 0.08 after the correction
    found = compare_items(base, row)
    score = TaskScore("acc", row.mean(), 0.02, 300, found.delta, found.delta_stderr, found.p_value, chance=0.0)
    score = replace(score, delta_low=found.low, delta_high=found.high)
    first = replace(baseline, tasks={task: TaskScore("acc", base.mean(), 0.02, 300) for task in "abcde"})
    second = replace(records[1], variant="Q4", divergence=None, tasks=dict.fromkeys("abcde", score))
    advice = advise_on_records([first, second])
    assert advice.variant == "BF16"
    assert "The smaller Q4 loses 2.3 ± 0.4 points on average over 5 tasks." in advice.reason


def test_a_significant_gain_does_not_disqualify(records):
    def better(record: Record) -> Record:
        sums = replace(record.tasks["micro_sums"], delta=0.03, p_value=1e-9)
        return replace(record, tasks={**record.tasks, "micro_sums": sums})

    assert advise_on_records([better(r) if r.variant == "Q4_K_M" else r for r in records]).variant == "Q4_K_M"


def test_the_limit_applies_to_predicted_memory(records):
    need = next(r.memory.predicted_bytes for r in records if r.variant == "Q4_K_M")
    assert advise_on_records(records, limit_bytes=need).variant == "Q4_K_M"
    tight = advise_on_records(records, limit_bytes=need - 1)
    assert tight.variant is None or tight.variant != "Q4_K_M"
    reason = "does not fit: it needs 11.8 MiB of memory (predicted), more than the limit of 11.8 MiB"
    assert excluded(tight)["Q4_K_M"] == reason
    nothing = advise_on_records(records, limit_bytes=1000)
    assert (nothing.variant, nothing.reason, nothing.confidence) == (None, "No variant fits.", "cannot-tell")


def test_a_variant_with_unknown_memory_does_not_fit(records):
    unknown = change(records, "Q4_K_M", memory=Memory())
    assert advise_on_records(unknown, limit_bytes=10**9).variant == "Q5_K_M"
    assert advise_on_records(unknown).variant == "Q4_K_M"  # without a limit it does not matter
    measured = change(records, "Q4_K_M", memory=Memory(None, 5))
    assert advise_on_records(measured, limit_bytes=10**9).variant == "Q4_K_M"


def test_the_reference_is_chosen_if_every_other_variant_diverges_too_much(records):
    found = advise_on_records([with_kld(r, 0.5) if r.divergence else r for r in records])
    assert found.variant == "BF16"
    assert "It is the reference, with which the others are compared." in found.reason
    assert excluded(found)["Q8_0"] == "has a measured KL divergence of 0.50 nats, which is beyond use"


def test_where_only_lossy_variants_fit_the_advice_says_so(records):
    lossy = [with_kld(r, 0.2) for r in records if r.divergence]
    found = advise_on_records([replace(one, tasks={}) for one in lossy], limit_bytes=10**9)
    assert found.variant is not None
    assert "This is a clear loss" in found.reason


def test_variants_that_were_not_measured_are_never_chosen(records, failed):
    small = replace(records[3], variant="Q1", file_bytes=10, status="failed", error="killed\nby signal 9")
    pending = replace(records[3], variant="Q0", file_bytes=9, status="pending")
    skipped = replace(records[3], variant="Q9", file_bytes=9, status="skipped", error=None)
    cancelled = replace(records[3], variant="Q8", file_bytes=9, status="cancelled", error="cancelled by the user")
    unsized = replace(records[3], variant="fq:sq", file_bytes=None)
    found = advise_on_records([*records, failed, small, pending, skipped, cancelled, unsized])
    assert found.variant == "Q4_K_M"
    reasons = excluded(found)
    assert reasons["Q1"] == "failed (killed by signal 9)"
    assert reasons["Q0"] == "is not measured yet"
    assert reasons["Q9"] == "was skipped: no message"
    assert reasons["Q8"] == "was cancelled"
    assert reasons["fq:sq"] == "has no file size"


def test_a_variant_without_a_figure_that_others_have_is_excluded(records):
    index = next(i for i, r in enumerate(records) if r.variant == "Q4_K_M")
    no_task = [*records[:index], without(without(records[index], "micro_form"), "micro_code"), *records[index + 1 :]]
    assert excluded(advise_on_records(no_task))["Q4_K_M"] == "was not compared on micro_form, micro_code"
    no_kld = change(records, "Q4_K_M", divergence=None)
    assert excluded(advise_on_records(no_kld))["Q4_K_M"] == "has no KL divergence"
    broken = change(records, "Q4_K_M", divergence=Divergence(float("nan"), 0.0, 0.0, 0.0, 0.0))
    assert advise_on_records(broken).variant == "Q5_K_M"


def test_without_tasks_the_divergence_decides_and_the_text_says_so(records):
    found = advise_on_records([replace(r, tasks={}) for r in records])
    assert found.variant == "Q4_K_M"
    assert found.confidence == "measured"
    assert found.reason.endswith("Its answers to tasks were not compared.")


def test_without_divergences_the_tasks_decide(records):
    found = advise_on_records([replace(r, divergence=None) for r in records])
    assert found.variant == "Q4_K_M"
    assert "KL divergence" not in found.reason
    assert "a loss of more than" in found.reason


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_comparison_there_is_no_advice(baseline, count):
    found = advise_on_records([replace(baseline, reference=None)] * count)
    assert found.variant is None
    assert found.reason == (
        "No variant can be chosen. BF16 was not compared with a reference, neither by KL divergence nor by task."
        if count
        else "There is no variant to choose from."
    )


def test_a_variant_without_its_reference_can_be_chosen(records):
    alone = [r for r in records if r.variant == "Q4_K_M"]  # its reference failed or is in another run
    assert advise_on_records(alone).variant == "Q4_K_M"


def test_a_slow_variant_is_not_chosen_over_a_fast_one(records):
    fast = [replace(r, speed=Speed(1000.0, 50.0)) for r in records]
    assert advise_on_records(fast).variant == "Q4_K_M"
    slow = change(fast, "Q4_K_M", speed=Speed(1000.0, 1.0))
    found = advise_on_records(slow)
    assert found.variant == "Q5_K_M"
    assert excluded(found)["Q4_K_M"].startswith("is too slow: 1")


def test_an_unstable_speed_decides_nothing(records):
    fast = [replace(r, speed=Speed(1000.0, 50.0)) for r in records]
    found = advise_on_records(change(fast, "Q4_K_M", speed=Speed(1000.0, 1.0, unstable=True)))
    assert found.variant == "Q4_K_M"
    assert found.pick is not None
    assert found.pick.tokens_per_s is None
    assert "tokens/s" not in found.reason


def test_too_few_items_are_said_to_be_too_few():
    sweep = simulate(1, 20)
    found = advise_on_records(sweep.records, "m")
    assert found.confidence == "cannot-tell"
    assert found.pick is not None
    assert found.pick.tasks is not None
    assert "Tasks cannot tell yet: 20 items per task leave open a loss of up to" in found.reason
    assert "so it is chosen by KL divergence" in found.reason
    settle = to_json(found, "m", ())["settle"]
    assert f"About {settle['items']} items per task would settle it" in found.reason
    assert f"--tasks one,two,three --limit {settle['items']}" in settle["command"]


def test_tasks_alone_choose_the_reference_while_a_loss_of_smaller_variants_is_open():
    sweep = simulate(1, 20)
    found = advise_on_records([replace(one, divergence=None) for one in sweep.records], "m")
    assert (found.variant, found.confidence) == ("BF16", "cannot-tell")
    assert "Tasks cannot tell yet whether Q8 would do: 20 items per task leave open a loss of up to" in found.reason
    assert "Q8" in to_json(found, "m", ())["settle"]["command"]


def test_the_items_that_would_settle_it_do_settle_it():
    """Of variants without a loss, four fifths pass with the number of items that the advice names (80 % power)."""
    settled = 0
    for seed in range(40):
        evidence = advise_on_records(simulate(seed, 50, ("one",)).records).pick
        assert evidence is not None
        items = 50 if evidence.tasks is None else evidence.tasks.settling_items or 50
        again = advise_on_records(simulate(seed, items, ("one",)).records)
        settled += again.confidence == "measured"
    assert settled >= 28


def test_the_commands_are_those_of_the_pick(records):
    found = advise_on_records(records, commands={"Q4_K_M": Commands("llama-server -m a.gguf", "sweep convert a")})
    told = to_json(found, "m", ())
    assert (told["command"], told["get"]) == ("llama-server -m a.gguf", "sweep convert a")


@pytest.mark.slow
def test_at_most_five_percent_of_simulated_sweeps_lead_to_a_loss_that_matters():
    """Of 2,000 sweeps with known losses and 20 to 1,000 items, judged by divergence and tasks, and by tasks alone."""
    tolerance, sweeps = advice_rules().tolerance, 2000
    wrong, smaller = Counter(), Counter()
    for seed in range(sweeps):
        sweep = simulate(seed, LIMITS[seed % len(LIMITS)])
        for by, rows in (
            ("both", sweep.records),
            ("tasks", [replace(one, divergence=None) for one in sweep.records]),
        ):
            found = advise_on_records(rows)
            assert found.variant is not None
            wrong[by] += sweep.losses[found.variant] > tolerance
            smaller[by] += found.variant != "BF16"
    assert max(wrong.values()) <= 0.05 * sweeps
    assert min(smaller.values()) > 0.4 * sweeps  # always to advise the reference would be no advice


@pytest.mark.slow
def test_even_if_the_divergence_says_nothing_few_claims_are_wrong():
    """The losses do not depend on the divergences, which no real model does: of the sweeps that claim to know."""
    tolerance = advice_rules().tolerance
    claims = wrong = 0
    for seed in range(600):
        sweep = simulate(seed, LIMITS[seed % len(LIMITS)], kld_says_nothing=True)
        found = advise_on_records(sweep.records)
        assert found.variant is not None
        if found.confidence == "measured":
            claims += 1
            wrong += sweep.losses[found.variant] > tolerance
    assert claims > 200
    assert wrong <= 0.05 * claims
