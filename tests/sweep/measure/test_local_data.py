"""JSONL files in place of a data set: the published fields and the local fields give the same questions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import presets
from converters.errors import InputError
from sweep.measure.lm_eval_tasks import TaskLocation, load_task, quiet
from sweep.measure.local_data import read_jsonl
from sweep.measure.task_options import TaskOptions

PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "hellaswag": [
        {
            "activity_label": "Rowing",
            "ctx_a": "Mara sits in a boat.",
            "ctx_b": f"she takes oar {i}",
            "label": str(i % 2),
        }
        | {"endings": [f"and rows [title] {i} times", "and  sleeps"]}
        for i in range(6)
    ],
    "arc_easy": [
        {"question": f"What is {i} and {i}?", "answerKey": "ABC"[i % 3]}
        | {"choices": {"text": [f"{i} boats", str(2 * i), "none"], "label": ["A", "B", "C"]}}
        for i in range(6)
    ],
    "boolq": [
        {"passage": f"Boat {i} is red.", "question": f"is boat {i} red", "label": i % 2, "idx": i} for i in range(6)
    ],
}
LOCAL = {
    "hellaswag": [
        {"query": f"Rowing: Mara sits in a boat. She takes oar {i}", "gold": i % 2}
        | {"choices": [f"and rows. {i} times", "and sleeps"]}
        for i in range(6)
    ],
    "arc_easy": [
        {"question": row["question"], "choices": row["choices"]["text"], "gold": "ABC".index(row["answerKey"])}
        for row in PUBLISHED["arc_easy"]
    ],
    "boolq": [
        {"passage": row["passage"], "question": f"{row['question']}?", "gold": row["label"], "choices": ["no", "yes"]}
        for row in PUBLISHED["boolq"]
    ],
}
PARTS = {"hellaswag": "validation", "arc_easy": "test", "boolq": "validation"}
FIXED = {
    "mmlu": {
        "test": [
            {"subject": subject, "question": f" Which is {subject} {i}?", "choices": list("wxyz"), "answer": i % 4}
            for i in range(3)
            for subject in sorted(
                "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology".split()
            )
        ],
        "dev": [
            {"subject": "anatomy", "question": f"Bone {i}?", "choices": list("abcd"), "answer": 1} for i in range(5)
        ],
    },
    "gsm8k": {
        "test": [{"question": f"{i} and 1?", "answer": f"It is\n#### {i + 1}"} for i in range(4)],
        "train": [{"question": f"{i} and 2?", "answer": f"It is\n#### {i + 2}"} for i in range(3)],
    },
}


def write(directory: Path, part: str, rows: list[dict[str, Any]]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def questions(task: str, folder: Path, shots: int | None = None) -> list[tuple[Any, ...]]:
    """The arguments of each request to the model, and the right answer."""
    with quiet(offline=True):
        loaded = load_task(
            task, TaskLocation(data=folder, data_name=task.partition("_anatomy")[0]), TaskOptions(num_fewshot=shots)
        )
        leaf = loaded.tasks[task]
        if shots is not None and leaf.config.num_fewshot != 0:
            leaf.set_config("num_fewshot", shots)
        leaf.set_fewshot_seed(0)
        leaf.build_all_requests()
        return [(request.args, leaf.doc_to_target(request.doc)) for request in leaf.instances]


@pytest.mark.parametrize("task", PUBLISHED)
@pytest.mark.parametrize("shots", [0, 2])
def test_local_fields_give_the_same_questions_as_published_fields(task: str, shots: int, tmp_path: Path) -> None:
    published = questions(task, write(tmp_path / "published", PARTS[task], PUBLISHED[task]), shots)
    local = questions(task, write(tmp_path / "local", PARTS[task], LOCAL[task]), shots)
    assert [arguments for arguments, _ in local] == [arguments for arguments, _ in published]
    assert [int(gold) for _, gold in local] == [int(gold) for _, gold in published]
    assert len({arguments for arguments, _ in local}) == len(local)


def test_without_a_split_for_examples_the_first_items_are_examples_and_are_not_scored(tmp_path: Path) -> None:
    folder = write(tmp_path / "boolq", "validation", LOCAL["boolq"])
    found = questions("boolq", folder, 2)
    prompts = [arguments[0] for arguments, _ in found]
    assert len(prompts) == 2 * 4
    assert all(prompt.startswith("Boat 0 is red.") and prompt.count("Answer:") == 3 for prompt in prompts)
    assert not any(prompt.endswith(f"is boat {i} red?\nAnswer:") for prompt in prompts for i in (0, 1))
    write(folder, "train", LOCAL["boolq"][3:])
    with_part = [arguments[0] for arguments, _ in questions("boolq", folder, 2)]
    assert len(with_part) == 2 * 6
    assert all(prompt.startswith("Boat 3 is red.") for prompt in with_part)


def test_examples_are_the_first_items_of_their_split_for_every_question(tmp_path: Path) -> None:
    for part, rows in FIXED["gsm8k"].items():
        write(tmp_path / "gsm8k", part, rows)
    prompts = [arguments[0] for arguments, _ in questions("gsm8k", tmp_path / "gsm8k", 2)]
    start = "Question: 0 and 2?\nAnswer: It is\n#### 2\n\nQuestion: 1 and 2?\nAnswer: It is\n#### 3\n\nQuestion: "
    assert prompts == [f"{start}{i} and 1?\nAnswer:" for i in range(4)]
    with pytest.raises(InputError, match=r"train\.jsonl: too few items for 5 examples of task gsm8k"):
        questions("gsm8k", tmp_path / "gsm8k")  # with the task's own number of examples


def test_a_subject_has_its_own_items_and_examples(tmp_path: Path) -> None:
    for part, rows in FIXED["mmlu"].items():
        write(tmp_path / "mmlu", part, rows)
    found = questions("mmlu_anatomy", tmp_path / "mmlu", 5)
    assert len(found) == 3 * 4
    assert all("about anatomy" in arguments[0] and "Bone 4?" in arguments[0] for arguments, _ in found)
    with pytest.raises(InputError, match=r"test\.jsonl: no item with subject 'virology' for task mmlu_virology"):
        load_offline("mmlu_virology", tmp_path / "mmlu", "mmlu")


def load_offline(task: str, folder: Path, name: str | None = None) -> Any:
    with quiet(offline=True):
        return load_task(task, TaskLocation(data=folder, data_name=name), TaskOptions())


def test_an_unlisted_data_set_is_read_with_its_published_fields(tmp_path: Path) -> None:
    rows = [{"goal": f"Stop boat {i}", "sol1": "Drop the anchor.", "sol2": "Row.", "label": 0} for i in range(2)]
    (found, *_), *_ = questions("piqa", write(tmp_path / "piqa", "validation", rows))
    assert found == ("Question: Stop boat 0\nAnswer:", " Drop the anchor.")


def test_unusable_files_are_rejected(tmp_path: Path) -> None:
    cases = {
        "empty": ("", "no item for task boolq"),
        "json": ('{"passage": 1}\n{"passage": \n', r"validation\.jsonl:2: not JSON"),
        "list": ("[1]\n", r":1: not a JSON object"),
        "fields": ('{"a": 1}\n', "boolq: the task or its data cannot be loaded: 'passage' is undefined"),
        "types": ('{"passage": "p", "question": 3, "gold": 1}\n', "an item has unexpected fields"),
        "bytes": (b"\xff\xfe\n".decode("latin-1"), "of task|not JSON|undefined|cannot"),
    }
    for name, (content, message) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "validation.jsonl").write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=message):
            load_offline("boolq", folder, "boolq")
    with pytest.raises(InputError, match="no file with the split 'validation' for task boolq"):
        load_offline("boolq", write(tmp_path / "other", "spring", LOCAL["boolq"]), "boolq")
    write(tmp_path / "two", "val_a", LOCAL["boolq"])
    with pytest.raises(InputError, match="two files for the split 'validation'"):
        load_offline("boolq", write(tmp_path / "two", "val_b", LOCAL["boolq"]), "boolq")
    with pytest.raises(InputError, match=r"mmlu_pro.*needs the data set TIGER-Lab/MMLU-Pro, but"):
        load_offline("mmlu_pro", write(tmp_path / "mmlu", "test", FIXED["mmlu"]["test"]), "mmlu")


def test_compressed_files_are_read_and_truncated_ones_rejected(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n{"a": 2}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    assert read_jsonl(tmp_path / "a.jsonl.gz") == [{"a": 1}, {"a": 2}] * 1000
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"b\.jsonl\.gz: cannot be read"):
        read_jsonl(tmp_path / "b.jsonl.gz")


def test_every_listed_data_set_is_the_one_that_lm_evals_task_uses() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    from sweep.measure import lm_eval_tasks

    for data in presets.task_data().values():
        task = data.tasks[0] if data.tasks[0] != "mmlu" else "mmlu_anatomy"
        manager = lm_eval_tasks._manager(task, TaskLocation())
        config = load_yaml(manager.task_index[task].yaml_path, resolve_func=False)
        assert config["dataset_path"] == data.dataset
        assert data.config in (None, config.get("dataset_name"))
