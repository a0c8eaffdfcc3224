"""What a task's figures and items are made of: lm-eval's results with a backend whose answers are fixed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from letters_backend import LettersBackend

from converters.errors import InputError
from sweep.measure import harness
from sweep.measure.harness import Metric, check_prompts, check_task, run_task
from sweep.measure.lm_eval_tasks import TaskLocation
from sweep.measure.task_options import TaskOptions

OWN = """
import json
from pathlib import Path
import datasets
from datasets import Dataset, DatasetDict

def load(file, **_):
    assert datasets.config.HF_HUB_OFFLINE
    rows = [json.loads(line) for line in (Path(__file__).parent / file).read_text().splitlines()]
    return DatasetDict({"test": Dataset.from_list(rows)})

def judged(doc, results):
    return {"share": doc["flags"], "lead": 1.0, "pair": (1.0, 2.0), "total": float(len(results[0]))}

def flat(lists):
    flags = [flag for flags in lists for flag in flags]
    return sum(flags) / len(flags)

def twice(values):
    return 2.0 * sum(values)

def first(pairs):
    return pairs[0][0]

def which(doc):
    return doc["label"]

def rest(doc):
    return doc["end"]

def contexts(doc):
    return doc["starts"]

def all_but_the_second(doc):
    if doc["q"] == "two":
        raise ValueError("no second")
    return doc["q"]
"""
COMMON = """
task: %s
custom_dataset: !function own.load
dataset_path: local
dataset_kwargs: {file: rows.jsonl}
test_split: test
"""
CHOOSE = "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{ends}}'\n"
WRITE = "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: so\n"
GENERATION = "generation_kwargs: {until: ['.'], max_gen_toks: 7}\n"
EXACT = "metric_list: [{metric: exact_match}]\n"
TASKS = {
    "several": CHOOSE + "doc_to_target: '{{golds}}'\nmetric_list: [{metric: acc}]\n",
    "named": CHOOSE + "doc_to_target: '{{ends[label]}}'\nmetric_list: [{metric: acc}]\n",
    "mutual": CHOOSE + "doc_to_target: label\nmetric_list: [{metric: acc_mutual_info}, {metric: acc}]\n",
    "inputs": "output_type: multiple_choice\ndoc_to_text: !function own.which\ndoc_to_target: !function own.rest\n"
    "doc_to_choice: !function own.contexts\nmetric_list: [{metric: acc}]\n",
    "shots": CHOOSE + "doc_to_target: label\nnum_fewshot: 1\nmetric_list: [{metric: acc}]\n",
    "judge": WRITE + GENERATION + "process_results: !function own.judged\nmetric_list:\n"
    "  - {metric: pair, aggregation: !function own.first, higher_is_better: false}\n"
    "  - {metric: total, aggregation: !function own.twice, higher_is_better: true}\n"
    "  - {metric: share, aggregation: !function own.flat, higher_is_better: true}\n"
    "  - {metric: lead, aggregation: mean, higher_is_better: true}\n",
    "plain": WRITE + GENERATION + EXACT,
    "lists": WRITE
    + GENERATION
    + "repeats: 2\nfilter_list:\n  - {name: all, filter: [{function: take_first_k, k: 2}]}\n"
    "  - {name: one, filter: [{function: take_first_k, k: 1}]}\n" + EXACT,
    "second": WRITE.replace("'{{q}}'", "!function own.all_but_the_second") + GENERATION + EXACT,
}
ROWS: list[dict[str, Any]] = [
    {"q": "one", "ends": ["bc", "a", "cd"], "label": 0, "golds": [0, 2], "starts": ["on", "o"], "end": "e"}
    | {"flags": [True, False]},
    {"q": "two", "ends": ["d", "ce", "ef"], "label": 1, "golds": [1], "starts": ["t", "tw"], "end": "o"}
    | {"flags": [True]},
    {"q": "six", "ends": ["x", "y", "z"], "label": 1, "golds": [0, 1, 2], "starts": ["s", "si"], "end": "x"}
    | {"flags": [False, False]},
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskLocation:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "own.py").write_text(OWN)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for name, body in TASKS.items():
        (folder / f"{name}.yaml").write_text(COMMON % name + body)
    (folder / "mixed.yaml").write_text("group: mixed\ntask: [named, shots]\n")
    (folder / "apart.yaml").write_text("group: apart\ntask: [named, plain]\n")
    return TaskLocation(folder)


def share(choices: list[str], right: list[int]) -> float:
    """The softmax of LettersBackend's scores, over the right choices."""
    weights = [math.exp(-sum(map(ord, f" {text}")) / 100) for text in choices]
    return sum(weights[i] for i in right) / sum(weights)


def test_the_gold_probability_adds_up_all_right_choices_however_the_task_names_them(tasks: TaskLocation) -> None:
    def gold(task: str) -> list[float | None]:
        return [item.gold_probability for item in run_task(LettersBackend(), task, tasks).items]

    assert gold("several") == pytest.approx([share(row["ends"], row["golds"]) for row in ROWS])
    assert gold("named") == pytest.approx([share(row["ends"], [row["label"]]) for row in ROWS])
    assert gold("mutual") == gold("named")
    assert gold("inputs") == pytest.approx([1 / 2] * 3)  # the same ending after each context
    assert gold("plain") == [None] * 3


def test_chance_is_the_share_of_one_of_the_choices(tasks: TaskLocation) -> None:
    chances = {name: run_task(LettersBackend(), name, tasks).chance for name in ("mutual", "inputs", "plain")}
    assert chances == {"mutual": pytest.approx(1 / 3), "inputs": 1 / 2, "plain": 0.0}


def test_figures_are_in_the_order_of_the_task_file_and_the_first_mean_is_the_primary_one(tasks: TaskLocation) -> None:
    run = run_task(LettersBackend("so it is."), "judge", tasks)
    assert [(m.name, m.value, m.higher_is_better) for m in run.metrics] == [
        ("pair", 1.0, False),
        ("total", 42.0, True),
        ("share", 2 / 5, True),
        ("lead", 1.0, True),
    ]
    assert [m.stderr for m in run.metrics] == [None, None, None, 0.0]
    assert run.metrics[0].key == "pair,none"
    assert [item.values for item in run.items] == [
        {"total,none": 7.0, "share,none": value, "lead,none": 1.0} for value in (0.5, 1.0, 0.0)
    ]
    assert run.primary.name == "lead"  # the mean of the items' shares is 1/2
    assert replace(run, metrics=run.metrics[:3]).primary.name == "pair"
    near = Metric("lead", "none", 1.0 + 1e-5, None, True)
    assert replace(run, metrics=(run.metrics[1], near)).primary.name == "total"
    assert replace(run, metrics=(run.metrics[1], replace(near, value=1.0 + 1e-7))).primary.name == "lead"
    zero = replace(run, items=tuple(replace(item, values={"lead,none": 1e-11}) for item in run.items))
    assert replace(zero, metrics=(run.metrics[1], replace(near, value=0.0))).primary.name == "lead"
    assert (run.n, run.num_fewshot, run.max_gen_toks, run.left_out) == (3, 0, 7, 0)
    assert (run.task, run.unfinished, run.in_reasoning) == ("judge", 3, 0)


def test_the_items_of_a_metric_are_those_that_have_a_value(tasks: TaskLocation) -> None:
    run = run_task(LettersBackend("so. it is"), "judge", tasks)
    assert run.items_of(run.metrics[0]) == ()
    first, *_ = run.items_of(run.metrics[1])
    item = run.items[0]
    assert (first.doc_id, first.doc_hash, first.prompt_hash) == (item.doc_id, item.doc_hash, item.prompt_hash)
    assert (first.value, first.answer, first.gold, first.subject) == (2.0, "so", None, "judge")
    other = replace(run, items=(replace(item, answers={"other": "no"}),))
    assert other.items_of(run.metrics[1])[0].answer == ""
    chosen = run_task(LettersBackend(), "named", tasks)
    assert [one.gold for one in chosen.items_of(chosen.primary)] == [item.gold_probability for item in chosen.items]
    assert [one.answer for one in chosen.items_of(chosen.primary)] == ["1", "0", "0"]


def test_an_answer_is_the_text_or_the_most_probable_choice() -> None:
    answer = harness._answer
    assert answer([(-3.0, False), (-1.0, True), (-2.0, False)]) == "1"
    assert answer([["text"]]) == "text"
    assert answer(["text"]) == "text"
    assert answer([["one", "two"]]) == "['one', 'two']"
    assert answer([["one", "two"], ["x", "y"]]) == "['one', 'two']"
    assert answer([("1.0", "x")]) == "('1.0', 'x')"
    assert answer([(-1.0, True, "x")]) == "(-1.0, True, 'x')"


def test_a_group_whose_tasks_have_other_numbers_of_examples_has_none(tasks: TaskLocation) -> None:
    mixed = run_task(LettersBackend(), "mixed", tasks)
    assert (mixed.num_fewshot, mixed.n, mixed.primary.name) == (None, 6, "acc")
    assert run_task(LettersBackend(), "mixed", tasks, TaskOptions(num_fewshot=1)).num_fewshot == 1
    with pytest.raises(InputError, match=r"task apart: its sub-tasks have no common metric"):
        check_task("apart", tasks)


CLOSES = "{% for m in messages %}{{ m.content }}<end>{% endfor %}<think></think>"
OPENS, ASKS = CLOSES.replace("</think>", ""), CLOSES.replace("<think></think>", "{# <think> #}")


@pytest.mark.parametrize(
    ("template", "thinking", "ignored"),
    [
        (CLOSES, True, True),
        (CLOSES, False, False),
        (CLOSES, None, False),
        (OPENS, True, False),
        (OPENS, False, True),
        (OPENS, None, False),
        (ASKS, True, False),
        (ASKS, False, False),
    ],
)
def test_a_prompt_that_contradicts_the_options_on_thinking_is_reported(
    tasks: TaskLocation, template: str, thinking: bool | None, ignored: bool
) -> None:
    options = TaskOptions(chat_template=True, thinking=thinking, limit=1)
    run = run_task(LettersBackend("so", chat_template=template), "plain", tasks, options)
    assert run.thinking_ignored is ignored
    assert run.in_reasoning == (template == OPENS)


def test_shared_prefixes_are_checked_and_the_check_is_part_of_the_result(tmp_path: Path, tasks: TaskLocation) -> None:
    for name in ("own.py", "named.yaml"):
        (tmp_path / name).write_text((tasks.yaml / name).read_text())
    rows = [ROWS[0] | {"q": f"{chr(65 + i)} question {i}"} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = LettersBackend()
    sharing = run_task(model, "named", TaskLocation(tmp_path)).sharing
    assert (sharing.questions, sharing.requests, sharing.largest_difference) == (2, 6, 0.0)


def test_the_prompt_of_the_first_item_and_its_examples_are_built(tasks: TaskLocation) -> None:
    check_prompts(LettersBackend(), "second", tasks, TaskOptions(limit=3))
    with pytest.raises(InputError, match=r"^task second: its prompts cannot be built: no second$"):
        check_prompts(LettersBackend(), "second", tasks, TaskOptions(num_fewshot=2))
    silent = LettersBackend(chat_template=ASKS.replace("<think>", ""))
    with pytest.raises(InputError, match="does not support thinking"):
        check_prompts(silent, "plain", tasks, TaskOptions(chat_template=True, thinking=True))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("two  lines\nof words"), "two lines of words"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("x" * 400), "x" * 300),
    ],
)
def test_prompts_that_cannot_be_built_are_rejected_with_one_line(
    tasks: TaskLocation, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr("lm_eval.simple_evaluate", fail)
    with pytest.raises(InputError) as rejected:
        check_prompts(LettersBackend(), "plain", tasks, TaskOptions())
    assert str(rejected.value) == f"task plain: its prompts cannot be built: {reason}"
