"""`sweep compare` pairs equal documents and windows, and reports what it cannot compare."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from stored_runs import Stored, items

from converters.errors import InputError
from sweep import statistics
from sweep.analysis.compare import compare
from sweep.cli import main
from sweep.cli.compare import compare as command
from sweep.cli.output import Format
from sweep.jobs.settings import Settings
from sweep.report.comparison import render_comparison, verdicts
from sweep.results.store import Item
from sweep.workspace import Workspace

N = 60
RIGHT = np.array([1.0] * 45 + [0.0] * 15)


def lost(count: int, won: int = 0) -> np.ndarray:
    """RIGHT with the first `count` items lost and the last `won` won."""
    row = RIGHT.copy()
    row[:count] = 0.0
    row[N - won :] = 1.0
    return row


NLL = np.linspace(0.5, 1.5, 40)
KLD = np.linspace(0.001, 0.02, 40)
A = Stored(
    "alpha-q-111111",
    {"t": {"BF16": items(RIGHT), "Q4": items(lost(1)), "Q2": items(lost(12, 1))}},
    {"BF16": (NLL, None), "Q4": (NLL + 0.01, KLD), "Q2": (NLL + 0.05, 3 * KLD)},
)
B = Stored(
    "beta-q-222222",
    {"t": {"BF16": items(lost(3)), "Q4": items(lost(3)), "Q2": items(lost(4))}},
    {"BF16": (NLL - 0.1, None), "Q4": (NLL - 0.09, KLD), "Q2": (NLL, 2 * KLD)},
    model="macro",
)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def both(space: Workspace) -> Workspace:
    A.put(space)
    B.put(space)
    return space


def printed(found, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(render_comparison(found, width))
    return console.file.getvalue()


def test_two_variants_of_one_run(both):
    found = compare(both, "alpha-q-111111:Q4", "alpha:Q2")
    (task,) = found.tasks
    expected = statistics.compare_items(lost(1), lost(12, 1))
    assert (task.variant_a, task.variant_b, task.task) == ("Q4", "Q2", "t")
    assert (task.a, task.b) == (44 / 60, 34 / 60)
    assert (task.difference.delta, task.difference.low, task.difference.high) == (
        expected.delta, expected.low, expected.high,
    )  # fmt: skip
    assert task.difference.p_value == statistics.mcnemar(lost(1), lost(12, 1))
    assert task.flips == pytest.approx(12 / 60)
    assert (task.only_a, task.only_b, task.reworded) == (0, 0, 0)
    assert found.losses == ()  # with one baseline, it would be the same difference
    ppl, kld = found.text
    assert (ppl.figure, kld.figure) == ("perplexity", "divergence")
    assert ppl.difference.delta == pytest.approx(0.04)
    assert kld.difference.delta == pytest.approx(2 * KLD.mean())
    assert kld.difference.stderr == pytest.approx((2 * KLD).std() / np.sqrt(40))
    assert found.notes == ()


def test_an_answer_that_changes_from_wrong_to_wrong_is_no_flip(space):
    answers = ["1"] * 45 + ["7"] * 15
    other = ["1"] * 45 + ["8"] * 10 + ["7"] * 5
    Stored("r", {"t": {"Q4": items(RIGHT, answers), "Q2": items(RIGHT, other)}}, variants=("BF16", "Q4", "Q2")).put(
        space
    )
    (task,) = compare(space, "r:Q4", "r:Q2").tasks
    assert (task.flips, task.answers_changed) == (0.0, pytest.approx(10 / 60))
    assert task.difference.low < 0.0 < task.difference.high  # no flip in 60 items does not prove that there is none


def test_across_models_tasks_are_paired_and_divergences_are_not(both):
    found = compare(both, "alpha", "beta")
    assert [(row.variant_a, row.task) for row in found.tasks] == [("BF16", "t"), ("Q4", "t"), ("Q2", "t")]
    assert found.text == ()
    assert [note for note in found.notes if "KL divergence" in note] == [
        "KL divergence is not compared: in A it is from BF16 of micro, in B from BF16 of macro; "
        "divergences of different models have no common zero."
    ]
    assert any("Perplexity is not compared" in note for note in found.notes)


def test_a_change_of_the_gap_between_models_is_the_difference_of_losses(both):
    found = compare(both, "alpha", "beta", "Q2")
    (loss,) = found.losses
    loss_a, loss_b = lost(12, 1) - RIGHT, lost(4) - lost(3)
    assert loss.a.delta == pytest.approx(-11 / 60)
    assert loss.b.delta == pytest.approx(-1 / 60)
    assert loss.difference.delta == pytest.approx(np.mean(loss_b - loss_a))
    assert loss.difference.stderr == pytest.approx(np.std(loss_b - loss_a) / np.sqrt(N))
    assert loss.difference.p_value == statistics.sign_flip_test(loss_b - loss_a)
    assert loss.significant
    assert loss.better
    assert "1 of 1 difference of losses is significant: B loses less on t." in verdicts(found)
    unchanged = compare(both, "alpha", "beta", "Q4").losses[0]
    assert not unchanged.significant
    assert (
        "0 of 1 difference of losses is significant: these items show no change"
        in verdicts(compare(both, "alpha", "beta", "Q4"))[1]
    )


def test_p_values_are_corrected_within_each_table(both):
    found = compare(both, "alpha", "beta")
    for rows in (found.tasks, found.losses):
        adjusted = statistics.holm([row.difference.p_value for row in rows])
        assert [row.p_holm for row in rows] == pytest.approx(adjusted.tolist())
    assert len(found.losses) == 2  # a baseline has no loss against itself


def test_items_are_paired_by_document_in_any_order(space):
    rng = np.random.default_rng(0)
    before, after = items(RIGHT), items(lost(5), first=0)
    shuffled = [after[i] for i in rng.permutation(N)]
    extra = items([1.0, 0.0], first=100)
    Stored("a", {"t": {"Q4": before}}).put(space)
    Stored("b", {"t": {"Q4": [*extra, *shuffled[5:]]}}).put(space)
    (task,) = compare(space, "a", "b", "Q4").tasks
    shared = sorted(item.doc_id for item in shuffled[5:])
    assert (task.difference.n, task.only_a, task.only_b) == (55, 5, 2)
    assert task.difference.delta == pytest.approx(np.mean(lost(5)[shared] - RIGHT[shared]))
    lines = printed(compare(space, "a", "b", "Q4"), 140)
    assert "Items left out because only A has them: t 5." in lines
    assert "Items left out because only B has them: t 2." in lines


def test_a_document_with_another_prompt_is_paired_and_reported(space):
    Stored("a", {"t": {"Q4": items(RIGHT)}}).put(space)
    mixed = [*items(lost(5), prompt="chat")[:20], *items(lost(5))[20:]]
    Stored("b", {"t": {"Q4": mixed}}).put(space)
    found = compare(space, "a", "b", "Q4")
    assert (found.tasks[0].difference.n, found.tasks[0].reworded) == (60, 20)
    assert "Items with the same document but another prompt, paired by document: t 20 of 60." in printed(found, 140)


def test_a_document_that_occurs_twice_is_paired_in_order(space):
    twice = [Item(i, "same", "p", value, "x", subject="t") for i, value in enumerate((1.0, 0.0, 0.0))]
    Stored("a", {"t": {"Q4": twice}}).put(space)
    Stored("b", {"t": {"Q4": [replace(twice[0], value=0.0), *twice[1:]]}}).put(space)
    (task,) = compare(space, "a", "b", "Q4").tasks
    assert (task.difference.n, task.flips) == (3, pytest.approx(1 / 3))


def test_a_score_that_is_not_a_number_is_not_paired(space):
    broken = RIGHT.copy()
    broken[7] = np.inf
    Stored("a", {"t": {"BF16": items(RIGHT), "Q4": items(RIGHT), "Q2": items(RIGHT)}}).put(space)
    Stored("b", {"t": {"BF16": items(RIGHT), "Q4": items(broken), "Q2": items(RIGHT)}}).put(space)
    found = compare(space, "a", "b", "Q4")
    assert (found.tasks[0].difference.n, found.tasks[0].only_a, found.tasks[0].only_b) == (59, 1, 1)
    assert found.losses[0].difference.n == 59


def test_a_file_can_be_the_reference_of_both_runs(space):
    text = {v: measured for v, measured in A.text.items() if v != "BF16"}
    for run, scale in (("a", 1.0), ("b", 1.5)):
        scaled = {v: (nll, scale * kld) for v, (nll, kld) in text.items()}
        Stored(run, text=scaled, variants=("Q4", "Q2"), reference="/data/base.logits").put(space)
    figures = [(row.variant_a, row.figure, row.significant) for row in compare(space, "a", "b").text]
    assert figures == [
        ("Q4", "perplexity", False),
        ("Q4", "divergence", True),
        ("Q2", "perplexity", False),
        ("Q2", "divergence", True),
    ]


def test_a_different_number_of_windows_is_not_paired(space):
    shorter = {v: (nll[:20], None if kld is None else kld[:20]) for v, (nll, kld) in A.text.items()}
    replace(A, mark="same").put(space)
    other = replace(A, run="b-q-1", text=shorter, windows="f00")
    other.put(space)
    found = compare(space, "alpha", "b-q-1", "Q2")
    assert found.text == ()
    assert any("not certain that both runs scored the same tokens" in note for note in found.notes)


def test_subjects_are_the_units_of_a_group(space):
    rng = np.random.default_rng(4)
    subjects = [f"mmlu_{i % 12}" for i in range(240)]
    before = (rng.random(240) < 0.6).astype(float)
    harmed = np.array([i % 12 == 3 for i in range(240)])  # one subject loses everything
    after = np.where(harmed, 0.0, before)

    def grouped(values):
        return [
            Item(i, f"d{i}", f"p{i}", float(v), "a", subject=s)
            for i, (s, v) in enumerate(zip(subjects, values, strict=True))
        ]

    Stored("a", {"mmlu": {"Q4": grouped(before), "Q2": grouped(after)}}).put(space)
    (task,) = compare(space, "a:Q4", "a:Q2").tasks
    assert task.difference.clusters == 12
    assert statistics.mcnemar(before, after) < 0.01  # by items it would be significant
    assert task.difference.p_value == 1.0  # one changed subject is one coin flip
    assert not task.significant


def test_the_probability_of_the_correct_choice_is_compared_if_items_have_it(space):
    rng = np.random.default_rng(5)
    p = rng.random((2, N))
    graded = {
        v: [replace(item, gold=float(g)) for item, g in zip(items(RIGHT), row, strict=True)]
        for v, row in zip(("Q4", "Q2"), p, strict=True)
    }
    Stored("a", {"t": graded}).put(space)
    (task,) = compare(space, "a:Q4", "a:Q2").tasks
    expected = statistics.compare_differences(p[1] - p[0])
    assert task.gold == expected
    assert "p(correct choice) %" in printed(compare(space, "a:Q4", "a:Q2"), 180)


def test_perplexity_is_compared_if_both_runs_scored_the_same_tokens(space):
    same = {"windows": "f00"}
    replace(A, **same).put(space)
    replace(B, **same).put(space)
    found = compare(space, "alpha", "beta", "Q2")
    (ppl,) = found.text
    assert ppl.figure == "perplexity"
    assert ppl.difference.delta == pytest.approx(-0.05)
    assert np.log(ppl.b / ppl.a) == pytest.approx(ppl.difference.delta)
    assert any(note.startswith("KL divergence is not compared") for note in found.notes)


def test_different_settings_are_reported(space):
    A.put(space)
    other = replace(A, run="alpha-q-333333", settings=Settings(kv_type="q8_0"), mark="other")
    other.put(space)
    found = compare(space, "alpha-q-1", "alpha-q-3", "Q2")
    assert found.notes[0] == "Measured differently: kv_type: f16 in A, q8_0 in B."
    assert any("measured with other settings" in note for note in found.notes)  # the same model: not "different models"


def test_different_task_settings_are_reported_for_shared_tasks(space):
    settings = {"t": "0 examples", "only here": "chat"}
    replace(A, text={}, about={"task_settings": settings, "text": None}).put(space)
    replace(B, text={}, about={"task_settings": {"t": "5 examples"}, "text": None}).put(space)
    notes = compare(space, "alpha", "beta").notes
    assert notes == ("Measured differently: t: 0 examples in A, 5 examples in B.",)  # and no note on a text


def test_one_measurement_in_two_runs_is_not_compared_with_itself(space):
    replace(A, mark="same").put(space)
    bigger = {v: items(lost(i)) for i, v in enumerate(("BF16", "Q4", "Q2"))}
    replace(A, run="gamma-q-4", mark="same", tasks={**A.tasks, "u": bigger}).put(space)
    with pytest.raises(
        InputError, match=r"to compare: Tasks only in gamma-q-4: u\. .* both runs share one measurement"
    ):
        compare(space, "alpha", "gamma")


def test_different_metrics_are_not_compared(space):
    A.put(space)
    replace(B, metric="exact_match", windows=None).put(space)
    with pytest.raises(InputError, match="t: acc in A and exact_match in B cannot be compared"):
        compare(space, "alpha", "beta")


@pytest.mark.parametrize(
    ("first", "second", "more", "line"),
    [
        (
            "alpah-q-111111",
            "beta",
            {},
            r"alpah-q-111111: no such run in .*; did you mean alpha-q-111111\?; choose another work",
        ),
        (
            "nothing",
            "beta",
            {},
            r"nothing: no such run in .*; the latest runs are strangers-q-6, .*, beta-q-222222; .*--workspace",
        ),
        ("alpha:Q9", "beta", {}, r"alpha:Q9: run alpha-q-111111 has no variant 'Q9'; it has BF16, Q4, Q2"),
        ("alpha", "beta:Q9", {}, r"run beta-q-222222 has no variant 'Q9'"),
        ("alpha", "alpha", {}, r"the same run twice; name two of its variants, such as alpha-q-111111:BF16"),
        ("alpha:Q4", "alpha:Q4", {}, r"alpha-q-111111:Q4: the same variant of the same run twice"),
        ("alpha:Q4", "beta", {"variant": "Q2"}, r"name the variant once"),
        ("alpha", "beta", {"variant": "Q9"}, r"has no variant 'Q9'"),
        ("alpha", "fresh", {}, r"run fresh-q-9 has no results yet"),
        ("alpha", "odd", {}, r"have no variant in common; name one of each as RUN:VARIANT"),
        (
            "alpha",
            "else",
            {},
            r"to compare: .*Tasks only in alpha-q-111111: t\. Tasks only in else-q-8: other\.",
        ),
        ("alpha", "strangers", {}, r"nothing to compare: .*t: no document is scored in both runs\."),
    ],
)
def test_bad_input_is_one_line(both, first, second, more, line):
    Stored("fresh-q-9").put(both)
    Stored("odd-q-7", {"t": {"F16": items(RIGHT)}}, variants=("F16",)).put(both)
    Stored("else-q-8", {"other": {"Q4": items(RIGHT)}}).put(both)
    Stored("strangers-q-6", {"t": {"Q4": items(RIGHT, first=1000)}}).put(both)
    with pytest.raises(InputError, match=line):
        compare(both, first, second, **more)


def test_the_command_line_ends_with_one_line_and_its_exit_code(both, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sweep", "compare", "alpah-q-111111", "beta", "--workspace", str(both.root)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("sweep: alpah-q-111111: no such run in")


def test_names_can_contain_colons(space):
    Stored(
        "qwen:4b-q-1", {"t": {"gguf:a.gguf": items(RIGHT), "Q4": items(lost(2))}}, variants=("Q4", "gguf:a.gguf")
    ).put(space)
    found = compare(space, "qwen:4b-q-1:gguf:a.gguf", "qwen:4b:Q4")
    assert (found.tasks[0].variant_a, found.tasks[0].variant_b) == ("gguf:a.gguf", "Q4")


def test_a_failed_job_sets_the_exit_code_and_the_rest_is_compared(both, capsys):
    replace(B, run="broken-q-5", tasks={"t": {**B.tasks["t"], "Q2": None}}).put(both)
    found = compare(both, "alpha", "broken")
    assert [row.variant_a for row in found.tasks] == ["BF16", "Q4"]
    assert "Failed in broken-q-5: t of Q2." in found.notes
    assert command("alpha", "broken", None, both.root, Format.QUIET) == 1
    assert command("alpha", "beta", None, both.root, Format.QUIET) == 0
    assert command("alpha", "broken", "Q4", both.root, Format.QUIET) == 0  # the failed job is of another variant
    assert "task difference" in capsys.readouterr().out


def test_json_is_one_line_with_every_verdict(both, capsys):
    assert command("alpha", "beta", None, both.root, Format.JSON) == 0
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert row["event"] == "compared"
    assert (row["a"]["run"], row["b"]["reference"]) == ("alpha-q-111111", "BF16")
    assert {"variant_a", "task", "difference", "p_holm", "flips", "answers_changed", "real"} <= row["tasks"][0].keys()
    assert {"delta", "stderr", "low", "high", "p_value", "n", "clusters"} == row["losses"][0]["difference"].keys()
    assert [entry["real"] for entry in row["losses"]] == [False, True]


def test_json_has_no_infinity(space, capsys):
    one = {v: (np.array([0.5 + i]), None if v == "BF16" else np.array([0.1 * i])) for i, v in enumerate(A.variants)}
    replace(A, text=one).put(space)  # of a single window no interval is known
    assert command("alpha:Q4", "alpha:Q2", None, space.root, Format.JSON) == 0
    line = capsys.readouterr().out
    assert "Infinity" not in line
    difference = json.loads(line)["text"][0]["difference"]
    assert (difference["low"], difference["p_value"]) == (None, 1.0)


@pytest.mark.parametrize("width", [60, 80, 140, 220])
def test_the_table_fits_and_colour_is_never_the_only_mark(both, width):
    found = compare(both, "alpha", "beta")
    output = printed(found, width)
    assert max(map(len, output.splitlines())) <= width
    for row in (*found.tasks, *found.losses):
        sign = ("▲" if row.better else "▼") if row.significant else "≈"
        assert any(line.startswith(f"{sign}  {row.variant_a} ") for line in output.splitlines())
    if width < 100:
        assert "Not shown at this width: p" in output


def test_hostile_names_are_printed_as_text(space):
    name = "<b>[bold red]\x1b]0;x\x07"
    Stored("a", {name: {"Q4": items(RIGHT), "Q2": items(lost(9))}}, model=name).put(space)
    output = printed(compare(space, "a:Q4", "a:Q2"), 200)
    assert "\x1b" not in output
    assert "[bold red]" in output
