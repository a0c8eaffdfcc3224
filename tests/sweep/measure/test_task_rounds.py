"""Tasks that are answered in rounds: the items, prompts and figures are those of the whole task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from letters_backend import LettersBackend

from sweep.items import Item
from sweep.measure.harness import TaskRun, run_task
from sweep.measure.lm_eval_tasks import TaskLocation
from sweep.measure.task_options import TaskOptions
from sweep.measure.task_rounds import PartialRun, run_task_in_rounds
from sweep.statistics.task_stopping import TaskEnding

DATA = """
import json
from pathlib import Path
from datasets import Dataset, DatasetDict

def load(file, **_):
    rows = [json.loads(line) for line in (Path(__file__).parent / file).read_text().splitlines()]
    return DatasetDict({"test": Dataset.from_list(rows), "train": Dataset.from_list(rows[:9])})
"""
COMMON = """
custom_dataset: !function data.load
dataset_path: local
dataset_kwargs: {file: rows.jsonl}
test_split: test
fewshot_split: train
num_fewshot: 2
"""  # the examples are drawn at random: those of an item depend on how many items came before it
TASKS = {
    "choose": """
output_type: multiple_choice
doc_to_text: "{{story}}"
doc_to_choice: "{{endings}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "write": """
output_type: generate_until
doc_to_text: "{{story}}"
doc_to_target: "so"
generation_kwargs: {until: ["x"], max_gen_toks: 4, do_sample: false}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: letters, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
metric_list: [{metric: exact_match}]
""",
    "brier": """
output_type: multiple_choice
doc_to_text: "{{story}}"
doc_to_choice: "{{endings}}"
doc_to_target: "{{label}}"
metric_list: [{metric: brier_score, aggregation: brier_score, higher_is_better: false}]
""",
}
TOTAL = 100


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> TaskLocation:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.py").write_text(DATA)
    rows = [{"story": f"s{i}", "endings": ["a", f"b{i % 7}", "c"], "label": i * i % 3} for i in range(TOTAL)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, body in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{COMMON}{body}")
    few = COMMON.replace("test_split: test", "test_split: train")
    (folder / "small.yaml").write_text(f"task: small\n{few}{TASKS['choose']}")
    (folder / "both.yaml").write_text(
        "group: both\ntask: [choose, small]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return TaskLocation(folder)


def in_rounds(location: TaskLocation, task: str, stop_at: int, backend: Any = None, **options: Any) -> PartialRun:
    """The task, ended at the first look with so many items."""

    def ending(items: Sequence[Item], higher_is_better: bool) -> TaskEnding | None:
        assert higher_is_better
        return TaskEnding.NO_LOSS if len(items) >= stop_at else None

    return run_task_in_rounds(backend or LettersBackend(), task, location, TaskOptions(), ending=ending, **options)


def whole(location: TaskLocation, task: str) -> TaskRun:
    return run_task(LettersBackend(), task, location, TaskOptions())


@pytest.mark.parametrize("task", ["choose", "write", "both"])
def test_the_last_round_gives_what_the_whole_task_gives(location: TaskLocation, task: str) -> None:
    found = in_rounds(location, task, 10_000)
    assert (found.run.metrics, found.run.items) == (whole(location, task).metrics, whole(location, task).items)
    assert found.ending is TaskEnding.ALL_ITEMS
    assert found.of == found.run.n


@pytest.mark.parametrize("task", ["choose", "write", "both"])
def test_the_items_of_a_part_are_items_of_the_whole_task_with_the_same_prompts(
    location: TaskLocation, task: str
) -> None:
    backend = LettersBackend()
    found = in_rounds(location, task, 60, backend)
    items = {(item.task, item.doc_id): item for item in whole(location, task).items}
    assert found.ending is TaskEnding.NO_LOSS
    assert (found.run.n, found.of) == (64, len(items))
    assert all(items[item.task, item.doc_id] == item for item in found.run.items)
    places = [(item.task, item.doc_id) for item in found.run.items]
    assert places == sorted(places) != [(item.task, item.doc_id) for item in found.run.items[:0]]
    assert {number for _, number in places} != set(range(64))  # not the first ones
    assert {name for name, _ in places} == {name for name, _ in items}
    primary = found.run.primary
    assert primary.value == pytest.approx(sum(item.values[primary.key] for item in found.run.items) / 64)
    asked = sum(map(len, backend.scored)) or len(backend.asked)
    assert asked < 1.2 * 64 * (1 if task == "write" else 3)  # a few more are scored again to check shared prefixes


def test_the_order_follows_from_the_seed(location: TaskLocation) -> None:
    first, again, other = (in_rounds(location, "choose", 32, seed=seed).run.items for seed in (1, 1, 2))
    assert first == again != other


def test_a_score_that_is_not_0_or_1_is_measured_on_all_items(location: TaskLocation) -> None:
    def never(*_: object) -> TaskEnding:
        raise AssertionError

    found = run_task_in_rounds(LettersBackend(), "brier", location, TaskOptions(), ending=never)
    assert (found.run.n, found.ending) == (TOTAL, TaskEnding.ALL_ITEMS)


@pytest.mark.parametrize("task", ["choose", "write"])
def test_nothing_is_answered_twice(location: TaskLocation, task: str, tmp_path: Path) -> None:
    kept, backend = tmp_path / "new" / "answers.json", LettersBackend()
    in_rounds(location, task, 32, backend, kept=kept)
    again = LettersBackend()
    found = in_rounds(location, task, 64, again, kept=kept)
    rest = LettersBackend()
    everything = run_task_in_rounds(rest, task, location, TaskOptions(), kept=kept)
    assert everything.run.items == whole(location, task).items
    assert found.run.unfinished == in_rounds(location, task, 64).run.unfinished
    if task == "write":
        prompts = [tuple(one.prompt) for one in (*backend.asked, *again.asked, *rest.asked)]
        assert len(prompts) == len(set(prompts)) == TOTAL
        assert [len(one.asked) for one in (backend, again, rest)] == [32, 32, 36]
    else:
        assert [len(one.scored[0]) for one in (backend, again, rest)] == [96, 96, 108]
    kept.write_text('{"answers": 3}')  # damaged: all are answered again
    assert in_rounds(location, task, 32, kept=kept).run.n == 32


def test_progress_goes_on_over_all_rounds(location: TaskLocation) -> None:
    seen: list[tuple[int, int]] = []
    in_rounds(location, "write", 64, progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(32, TOTAL), (64, TOTAL)]
