"""--tasks and its options: which tasks they name, where the data are, and what the results depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import presets
from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.jobs import serialization
from sweep.jobs.inputs import Task
from sweep.measure import task_names
from sweep.measure.task_options import TaskOptions, ThinkingScoring
from sweep.planning.chat import with_templates
from sweep.planning.model import ResolvedModel
from sweep.planning.tasks import tasks_for

MODEL = ResolvedModel("m", Path("m"), "f" * 64, 1024)


def tasks(*names: str, folder: Path | None = None, **options: object) -> tuple[Task, ...]:
    return tasks_for(MODEL, names, TaskOptions(**options), folder)  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("gsm8k", "mmlu", "piqa"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.jsonl").write_text(json.dumps({"question": name}))
    return tmp_path


def test_a_list_of_tasks_means_its_tasks() -> None:
    assert [task.name for task in tasks("reasoning")] == ["gsm8k", "hellaswag", "mmlu", "ifeval"]
    study = {task.name: task.options.num_fewshot for task in tasks("qwen3-study")}
    assert list(study) == ["piqa", "arc_easy", "arc_challenge", "hellaswag", "winogrande", "boolq", "mmlu"]
    assert study.pop("mmlu") == 5
    assert set(study.values()) == {0}
    assert [task.name for task in tasks("code")] == ["humaneval"]
    assert {task.options.limit for task in tasks("quick")} == {100}
    assert {task.options.limit for task in tasks("quick", limit=7)} == {7}
    assert {task.options.num_fewshot for task in tasks("qwen3-study", num_fewshot=2)} == {2}


def test_every_task_of_a_list_is_in_lm_eval() -> None:
    from sweep.measure.lm_eval_tasks import TaskLocation, _manager

    for known in presets.task_lists().values():
        for name, _ in known.tasks:
            assert name in _manager(name, TaskLocation()).task_index


@pytest.mark.slow  # lm-eval parses 14,000 files
def test_every_name_that_lm_eval_knows_is_found_in_the_lines_of_its_files() -> None:
    from lm_eval.tasks import TaskManager

    known = TaskManager().all_tasks
    assert len(known) > 10_000
    assert [name for name in known if not task_names.is_known(name)] == []


def test_names_are_found_in_every_form_that_lm_evals_files_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("group: 'a'\ntask:\n  - other\ntag:\n  - x-1\n  - \"x_2\"\ninclude: _base\n")
    (tmp_path / "_base").write_text("tag: [y, 'z']\n")
    (tmp_path / "b.yaml").write_text('"tag": "single"\n"task": b  # a comment\n')
    (tmp_path / "b.py").write_text("task: code\n")
    monkeypatch.setattr(task_names, "home", lambda: tmp_path)
    names = {"a", "b", "other", "x-1", "x", "x_2", "y", "z", "single", "code", "-"}
    assert {name for name in names if task_names.is_known(name)} == {"a", "b", "x-1", "x_2", "y", "z", "single"}


def test_a_task_that_is_named_twice_runs_once_unless_its_settings_differ() -> None:
    assert [task.name for task in tasks("gsm8k", "reasoning", "none")] == ["gsm8k", "hellaswag", "mmlu", "ifeval"]
    with pytest.raises(InputError, match="task mmlu is named twice with different settings"):
        tasks("mmlu", "qwen3-study")


def test_data_are_found_by_the_name_of_the_data_set(data: Path) -> None:
    (sums,) = tasks("gsm8k_cot", folder=data)
    assert (sums.data, sums.data_name, sums.is_local) == (Artefact.of(data / "gsm8k"), "gsm8k", True)
    assert tasks("mmlu_virology", folder=data)[0].data == Artefact.of(data / "mmlu")
    assert tasks("mmlu", folder=data / "mmlu")[0].data == Artefact.of(data / "mmlu")
    assert tasks("piqa", folder=data)[0].data == Artefact.of(data / "piqa")  # unknown form: used as published
    assert not tasks("hellaswag", folder=data)[0].is_local
    with pytest.raises(InputError, match="there is no such directory"):
        tasks("gsm8k", folder=data / "absent")


def test_task_files_are_preferred_to_data_files(data: Path) -> None:
    (data / "mine.yaml").write_text("task: gsm8k\n")
    (data / "both.yaml").write_text("group: both\ntask: [gsm8k]\n")
    assert [(task.name, task.folder, task.data) for task in tasks("gsm8k", "both", folder=data)] == [
        ("gsm8k", Artefact.of(data), None),
        ("both", Artefact.of(data), None),
    ]
    assert tasks(str(data / "both.yaml")) == tasks("both", folder=data)


def test_other_settings_or_data_change_the_identity_of_a_task(data: Path) -> None:
    def identity(name: str = "gsm8k", folder: Path | None = data, **options: object) -> str:
        (task,) = tasks(name, folder=folder, **options)
        return task.identity

    settings = {
        "limit": 3,
        "num_fewshot": 2,
        "chat_template": True,
        "thinking": False,
        "max_gen_toks": 9,
    }
    chat = {"chat_template": True}  # thinking needs it
    others = [identity(**{**(chat if name == "thinking" else {}), name: value}) for name, value in settings.items()]
    assert len({identity(), *others, identity(folder=None), identity("gsm8k_cot")}) == len(settings) + 3
    assert identity(allow_code=True) == identity()
    (bounded,) = tasks("gsm8k", folder=data, max_gen_toks=9)
    assert (bounded.unbounded, tasks("gsm8k", folder=data)[0].unbounded) == (identity(), None)
    before = identity()
    (data / "mmlu" / "test.jsonl").write_text("{}")
    assert identity() == before
    (data / "gsm8k" / "test.jsonl").write_text(json.dumps({"question": "another"}))
    assert identity() != before


def test_only_results_that_reasoning_can_change_have_a_new_identity() -> None:
    old = {"limit": None, "num_fewshot": None, "chat_template": True, "thinking": False, "max_gen_toks": None}
    chat = TaskOptions(chat_template=True, thinking=False)
    theirs = replace(chat, thinking_scoring=ThinkingScoring.LM_EVAL)
    assert TaskOptions().identity == old | {"chat_template": False, "thinking": None}
    assert theirs.identity == old
    assert chat.identity == old | {"thinking_scoring": "answer"}
    (task,) = tasks("gsm8k", chat_template=True, thinking=False)
    (stored,) = tasks("gsm8k", chat_template=True, thinking=False, thinking_scoring=ThinkingScoring.LM_EVAL)
    assert (task.unbounded, stored.unbounded) == (stored.identity, None)  # found if the task generates nothing


def test_a_model_that_cannot_reason_keeps_the_identity_of_earlier_results(tmp_path: Path) -> None:
    plain, reasons = tmp_path / "plain", tmp_path / "reasons"
    for folder, template in ((plain, "{{ messages }}"), (reasons, "{{ messages }}<think>")):
        folder.mkdir()
        (folder / "chat_template.jinja").write_text(template)
    chat, off = TaskOptions(chat_template=True), TaskOptions(chat_template=True, thinking=False)
    assert not with_templates(chat, [plain]).scores_answers
    assert with_templates(off, [plain]).scores_answers
    assert with_templates(chat, [plain, reasons]).scores_answers
    theirs = replace(off, thinking_scoring=ThinkingScoring.LM_EVAL)
    assert with_templates(theirs, [reasons]) == theirs


def test_a_model_that_rejects_system_messages_has_an_identity_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0]['content'] }}"
    )
    chat = TaskOptions(chat_template=True)
    assert with_templates(chat, [tmp_path]).identity.items() - chat.identity.items() == {
        ("system", "in the first user message")
    }


def test_thinking_needs_the_chat_template() -> None:
    with pytest.raises(InputError, match="leave --no-chat-template out"):
        tasks("gsm8k", thinking=True)
    tasks("gsm8k", thinking=False, chat_template=True)


def test_the_job_says_all_that_the_worker_needs(data: Path) -> None:
    (task,) = tasks("gsm8k", folder=data, limit=3, thinking=True, chat_template=True)
    assert serialization.from_json(json.loads(json.dumps(serialization.to_json(task))), Task) == task
    assert task.data == Artefact.of(data / "gsm8k")
    assert task.options.words == "first 3 items, chat template, thinking on"


def test_the_images_of_a_task_are_part_of_its_identity(data: Path) -> None:
    file = data / "look.yaml"
    file.write_text("task: look\ndoc_to_image: [picture]\n")
    (data / "read.yaml").write_text("task: read\n")
    (data / "pages/old").mkdir(parents=True)
    plain, before = tasks("read", "look", folder=data)
    assert (plain.takes_images, before.takes_images) == (False, True)
    assert serialization.from_json(serialization.to_json(before), Task) == before
    seen = [before.identity]
    for name, content in [("pages/old/a.PNG", b"1"), ("pages/old/a.PNG", b"2"), ("b.jpg", b"1"), ("notes/x.txt", b"")]:
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(content)
        unchanged, now = tasks("read", "look", folder=data)
        seen.append(now.identity)
        assert (unchanged.identity == plain.identity) == (not (data / "b.jpg").exists())  # any file in its own folder
    assert len(set(seen)) == 4
    assert seen[3] == seen[4]
    mmmu = data / "mmmu"
    (mmmu / "images").mkdir(parents=True)
    (mmmu / "validation.jsonl").write_text("{}")
    for content in (b"1", b"2"):
        (mmmu / "images/a.png").write_bytes(content)
        seen.append(tasks("mmmu_val", folder=data)[0].identity)
    assert seen[-1] != seen[-2]
