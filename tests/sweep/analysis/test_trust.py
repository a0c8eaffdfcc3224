"""The notes on which figures to trust, sentence by sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweep.analysis.trust import noise_floor, trust_notes
from sweep.record import Divergence, Perplexity, Record, Stopping, TaskScore


def row(variant: str, bits: float | None, kld: float | None = None, reference: str | None = "BF16", **more) -> Record:
    floor = more.pop("floor", None)
    divergence = None if kld is None else Divergence(kld, 0.0, kld, kld, 1.0, floor)
    ppl = more.pop("ppl", None)
    perplexity = None if ppl is None else Perplexity(ppl, 0.1, 100)
    return Record(
        variant,
        "gguf",
        "ok",
        bits_per_weight=bits,
        divergence=divergence,
        perplexity=perplexity,
        reference=reference,
        **more,
    )


def test_without_figures_there_are_no_notes() -> None:
    assert trust_notes([]) == []
    assert trust_notes([row("BF16", 16), row("Q4", 4)]) == []


def test_implausible_figures_are_listed_by_variant() -> None:
    rows = [row("Q4", 4, implausible=("A", "B")), row("Q5", 5), row("Q6", 6, implausible=("C",))]
    (note,) = trust_notes(rows)
    assert "explain: Q4: A, and B; Q6: C. Likely causes:" in note


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        # the largest rise counts: 0.03 from Q4 to Q5, not 0.01 from Q2 to Q3
        (
            [("Q2", 2, 0.23, 9.00), ("Q3", 3, 0.22, 9.01), ("Q4", 4, 0.2, 8.90), ("Q5", 5, 0.1, 8.93)],
            "falls from each variant to the next larger one, but perplexity rises from Q4 (8.9000) to the larger Q5 "
            "(8.9300).",
        ),
        # the divergence does not fall everywhere: it rises from Q2 to Q3
        (
            [("Q2", 2, 0.3, 9.0), ("Q3", 3, 0.4, 8.5), ("Q4", 4, 0.1, 8.6)],
            "compares every token with the reference, but perplexity rises from Q3 (8.5000) to the larger Q4 (8.6000).",
        ),
        # a small rise has as many decimals as it needs
        (
            [("Q2", 2, 0.4, 9.0), ("Q3", 3, 0.3, 9.00002)],
            "falls from each variant to the next larger one, but perplexity rises from Q2 (9.00000) to the larger Q3 "
            "(9.00002).",
        ),
        ([("Q2", 2, 0.4, 9.0), ("Q3", 3, 0.3, 9.0)], None),  # equal is no rise
        ([("Q2", 2, 0.3, 8.0), ("Q3", 3, 0.4, 9.0)], None),  # both rise: the larger variant is worse
        ([("Q2", None, 0.3, 8.0), ("Q3", 3, 0.2, 9.0)], None),  # the order by size is unknown
    ],
)
def test_a_rise_of_perplexity_alone_is_reported(figures: list[tuple], expected: str | None) -> None:
    notes = trust_notes([row(name, bits, kld, ppl=ppl) for name, bits, kld, ppl in figures])
    assert notes == (
        [] if expected is None else [f"Trust KL divergence rather than perplexity. KL divergence {expected}"]
    )


def test_the_rise_may_be_to_the_reference_itself_and_in_a_later_group() -> None:
    a = [row("Q4", 4, 0.1, ppl=9.0, reference="A"), row("A", 16, None, ppl=8.0, reference="A")]
    b = [row("Q5", 5, 0.1, ppl=8.0, reference="B"), row("B", 16, None, ppl=8.5, reference="B")]
    notes = trust_notes([*a, *b])
    assert "perplexity rises from Q5 (8.0000) to the larger B (8.5000)" in notes[0]


def test_the_noise_floor_is_the_largest_of_its_reference() -> None:
    rows = [
        row("BF16", 16, 0.0, floor=2e-5),
        row("Q8", 8, 2e-5, floor=None),
        row("Q6", 6, 3e-5, floor=1e-5),
        row("Q9", 9, 1e-5),
        row("other", 4, 0.1, reference="F16", floor=0.5),
    ]
    assert noise_floor(rows, "BF16") == 2e-5
    assert noise_floor(rows, "F16") == 0.5
    assert noise_floor(rows, "none") is None
    assert noise_floor([row("BF16", 16, 0.0, reference=None, floor=3e-5), rows[2]], "BF16") == 3e-5
    notes = [note for note in trust_notes(rows) if note.startswith("The noise floor")]
    assert notes == [
        "The noise floor of BF16 is 0.000020 nats: its KL divergence from itself when it is computed with another "
        "batch shape. Not above it: Q8 and Q9.",
        "The noise floor of F16 is 0.50 nats: its KL divergence from itself when it is computed with another "
        "batch shape. Not above it: other.",
    ]
    (above,) = trust_notes([rows[2]])
    assert above.endswith("Every variant is above it.")


def checked(difference: float | None, questions: int | None, changed: int | None) -> TaskScore:
    found = TaskScore("acc", 0.5, 0.1, 100)
    return replace(found, sharing_difference=difference, sharing_questions=questions, sharing_changed=changed)


def test_the_worst_check_of_shared_prefixes_is_named() -> None:
    rows = [
        row("Q4", 4, tasks={"a": checked(1e-4, 1000, 1), "b": checked(3e-4, 500, None)}),
        row("Q5", 5, tasks={"a": checked(2e-4, 250, 0), "b": checked(None, 7, 1), "c": checked(0.5, None, 1)}),
    ]
    (note,) = trust_notes(rows)
    assert note == (
        "A prefix that questions share is computed once. As a check, 1,750 sampled questions were also scored alone: "
        "1 answer changed, and log-likelihoods changed by at most 0.00030 nats (b of Q4)."
    )
    (note,) = trust_notes([row("Q4", 4, tasks={"a": checked(1e-4, 10, 2)})])
    assert "10 sampled questions were also scored alone: 2 answers changed" in note
    (note,) = trust_notes([row("Q4", 4, tasks={"a": checked(1e-4, 10, 0)})])
    assert "scored alone: no answer changed, and" in note


def test_references_and_the_variants_of_the_small_groups_are_named() -> None:
    rows = [
        row("A", 16, reference="A"),
        row("Q4", 4, reference="A"),
        row("Q5", 5, reference="A"),
        row("x3", 3, reference="B"),
        row("x2", 2, reference="C"),
        row("Q6", 6, reference="A"),
        row("x4", 4, reference="C"),
    ]
    (note,) = trust_notes(rows)
    assert note.startswith("There are 3 references: B for x3; C for x2 and x4; A for the other variants. KL")
    assert trust_notes(rows[:3]) == []
    many = [row(f"x{i}", i, reference="B") for i in (1, 2, 3)] + [row(f"y{i}", i) for i in range(4)]
    assert trust_notes(many)[0].startswith("There are 2 references: B for x1, x2 and x3; BF16 for the other variants.")


def test_the_base_of_task_scores_is_explained_if_the_reference_is_a_file() -> None:
    rows = [row("Q4", 4, reference="file", task_reference="Q8"), row("Q8", 8, reference="file", task_reference="Q8")]
    (note,) = trust_notes(rows)
    assert note == (
        "file is a file of probabilities and cannot answer tasks. Task scores are compared with those of Q8, which has "
        "the most bits per weight."
    )
    (note,) = trust_notes([*rows, row("BF16", 16, reference=None)])
    assert note.endswith("those of Q8, which is the variant that the file was made from.")
    (note,) = trust_notes([row("Q4", None, reference="file", task_reference="Q8")])
    assert note.endswith("those of Q8, which is the variant that the file was made from.")
    assert trust_notes([row("Q4", 4, task_reference="BF16")]) == []


def test_how_much_of_a_text_was_measured_and_why_no_more() -> None:
    few = {"text": Stopping(32, 564, "under 0.02 nats")}
    rows = [row("Q4", 4, stopping=few), row("Q8", 8, stopping=few)]
    rows += [row("Q2", 2, stopping={"text": Stopping(128, 564, ""), "text code": Stopping(90, 90, "all windows")})]
    (note,) = trust_notes(rows)
    assert "Windows of the text: 32 of 564: under 0.02 nats (Q4, Q8); 128 of 564: not finished (Q2)." in note
    assert "Windows of code: 90 of 90: all windows (Q2)." in note


def test_how_many_items_were_answered_and_why_no_more() -> None:
    rows = [
        row(
            name,
            bits,
            stopping={"t": Stopping(items, 400, "cannot become a loss")},
            tasks={"t": TaskScore("acc", 0.5, 0.1, items)},
        )
        for name, bits, items in (("Q4", 4, 150), ("Q8", 8, 50))
    ]
    (note,) = trust_notes(rows)
    assert "Items of t: 50 to 150 of 400: cannot become a loss (Q4, Q8)." in note
