"""--tasks and its options name tasks, their data and all that their results depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import presets
from converters.errors import InputError
from sweep.measure.options import TaskOptions
from sweep.planning.model import Model
from sweep.planning.tasks import Task, tasks_for

MODEL = Model("m", Path("m"), "f" * 64, 1024)


def asked(*names: str, folder: Path | None = None, **options: object) -> tuple[Task, ...]:
    return tasks_for(MODEL, names, TaskOptions(**options), folder)  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("gsm8k", "mmlu", "piqa"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.jsonl").write_text(json.dumps({"question": name}))
    return tmp_path


def test_lists_stand_for_their_tasks() -> None:
    assert [task.name for task in asked("reasoning")] == ["gsm8k", "hellaswag", "mmlu", "ifeval"]
    study = {task.name: task.options.num_fewshot for task in asked("qwen3-study")}
    assert list(study) == ["piqa", "arc_easy", "arc_challenge", "hellaswag", "winogrande", "boolq", "mmlu"]
    assert study.pop("mmlu") == 5
    assert set(study.values()) == {0}
    assert [task.name for task in asked("code")] == ["humaneval"]
    assert {task.options.limit for task in asked("quick")} == {100}
    assert {task.options.limit for task in asked("quick", limit=7)} == {7}
    assert {task.options.num_fewshot for task in asked("qwen3-study", num_fewshot=2)} == {2}


def test_every_listed_task_is_one_of_lm_evals() -> None:
    from sweep.measure.loading import Place, _manager

    for known in presets.task_lists().values():
        for name, _ in known.tasks:
            assert name in _manager(name, Place()).task_index


def test_a_task_that_is_asked_for_twice_is_one_unless_it_differs() -> None:
    assert [task.name for task in asked("gsm8k", "reasoning", "none")] == ["gsm8k", "hellaswag", "mmlu", "ifeval"]
    with pytest.raises(InputError, match="task mmlu is asked for twice, with different settings"):
        asked("mmlu", "qwen3-study")


def test_data_are_found_by_the_name_of_their_set(data: Path) -> None:
    (sums,) = asked("gsm8k_cot", folder=data)
    assert (sums.data, sums.data_name, sums.is_local) == (data / "gsm8k", "gsm8k", True)
    assert asked("mmlu_virology", folder=data)[0].data == data / "mmlu"
    assert asked("mmlu", folder=data / "mmlu")[0].data == data / "mmlu"
    assert asked("piqa", folder=data)[0].data == data / "piqa"  # of no known form, so as published
    assert not asked("hellaswag", folder=data)[0].is_local
    with pytest.raises(InputError, match="there is no such directory"):
        asked("gsm8k", folder=data / "absent")


def test_task_files_come_before_data(data: Path) -> None:
    (data / "mine.yaml").write_text("task: gsm8k\n")
    (data / "both.yaml").write_text("group: both\ntask: [gsm8k]\n")
    assert [(task.name, task.folder, task.data) for task in asked("gsm8k", "both", folder=data)] == [
        ("gsm8k", data, None),
        ("both", data, None),
    ]
    assert asked(str(data / "both.yaml")) == asked("both", folder=data)


def test_results_of_other_settings_or_data_are_other_results(data: Path) -> None:
    (task,) = asked("gsm8k", folder=data)
    settings = {
        "limit": 3,
        "num_fewshot": 2,
        "chat_template": True,
        "thinking": False,
        "max_gen_toks": 9,
    }
    others = [replace(task, options=replace(task.options, **{name: value})) for name, value in settings.items()]
    identities = {other.identity for other in [task, *others, Task("gsm8k"), replace(task, name="gsm8k_cot")]}
    assert len(identities) == len(settings) + 3
    assert replace(task, options=replace(task.options, allow_code=True)).identity == task.identity
    before = task.identity
    (data / "gsm8k" / "test.jsonl").write_text(json.dumps({"question": "another"}))
    assert replace(task).identity != before
    (data / "mmlu" / "test.jsonl").write_text("{}")
    assert replace(task).identity == replace(task).identity


def test_thinking_needs_the_chat_template() -> None:
    with pytest.raises(InputError, match="does not go with --no-chat-template"):
        asked("gsm8k", thinking=True)
    asked("gsm8k", thinking=False, chat_template=True)


def test_the_job_says_all_that_the_worker_needs(data: Path) -> None:
    (task,) = asked("gsm8k", folder=data, limit=3, thinking=True, chat_template=True)
    row = json.loads(json.dumps(task.to_json()))
    assert TaskOptions(**row.pop("options")) == task.options
    assert row == {"name": "gsm8k", "folder": None, "data": str(data / "gsm8k"), "data_name": "gsm8k"}
    assert task.options.words == "first 3 items, chat template, thinking on"
