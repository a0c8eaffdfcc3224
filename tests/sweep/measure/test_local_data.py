"""JSONL files in place of a data set: the published fields and the local fields give the same questions."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

import presets
from converters.errors import InputError
from sweep.measure.lm_eval_tasks import TaskLocation, load_task, quiet
from sweep.measure.local_data import LocalData, read_jsonl
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


def test_the_file_of_a_split_begins_with_its_name(tmp_path: Path) -> None:
    for name in ("validated", "training", "testing", "dev", "spring-2024", "train-ready"):
        write(tmp_path, name, [{"a": 1}])
    (tmp_path / "notes.json").write_text("{}")
    named = presets.TaskData("named", files=(("validation", "spring"), ("winter", "notes")))
    plain, own = LocalData(tmp_path, presets.TaskData("plain")), LocalData(tmp_path, named)
    splits = ("validation", "test", "dev", "spring", "summer", None)
    found = [plain.split_file(split) for split in splits]
    assert [file and file.name for file in found] == [
        "validated.jsonl", "testing.jsonl", "dev.jsonl", "spring-2024.jsonl", None, None,
    ]  # fmt: skip
    assert own.split_file("validation") == tmp_path / "spring-2024.jsonl"
    assert own.split_file("winter") is None  # not a JSONL file
    with pytest.raises(InputError, match=r"two files for the split 'train': train-ready\.jsonl and training\.jsonl"):
        plain.split_file("train")


SPLITS = {"training_split": "train", "validation_split": "val", "test_split": "test", "fewshot_split": "dev"}
PLAIN = {"task": "t", "dataset_path": "here", "process_docs": "own preparation"}


def replaced(
    folder: Path, settings: dict[str, Any], num_fewshot: int | None = None, **about: Any
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The configuration, and the field `n` of the items in each of its parts."""
    found = LocalData(folder, presets.TaskData("here", **about)).replace_data_set(PLAIN | settings, num_fewshot)
    parts = found["custom_dataset"](model_args=None)
    return found, {part: rows["n"] for part, rows in parts.items()}


def items(*values: int) -> list[dict[str, Any]]:
    return [{"n": value} for value in values]


def test_the_scored_file_and_the_examples_come_from_the_splits_of_the_task(tmp_path: Path) -> None:
    for part, rows in (("train", items(1, 2)), ("val", items(3, 4)), ("test", items(5, 6)), ("dev", items(7, 8))):
        write(tmp_path, part, rows)
    config, parts = replaced(tmp_path, SPLITS, 2)
    assert parts == {"test": [5, 6], "fewshot": [7, 8]}
    assert config == PLAIN | {
        "custom_dataset": config["custom_dataset"],
        "dataset_kwargs": {},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "fewshot",
        "fewshot_config": {"sampler": "first_n"},
    }
    for removed, expected in (("dev", [1, 2]), ("train", [3, 4])):
        (tmp_path / f"{removed}.jsonl").unlink()
        assert replaced(tmp_path, SPLITS, 2)[1] == {"test": [5, 6], "fewshot": expected}
    (tmp_path / "test.jsonl").unlink()
    assert replaced(tmp_path, SPLITS)[1] == {"test": [3, 4]}
    assert replaced(tmp_path, SPLITS, 1)[1] == {"test": [4], "fewshot": [3]}
    with pytest.raises(InputError, match=r"val\.jsonl: too few items for 2 examples of task t"):
        replaced(tmp_path, SPLITS, 2)
    with pytest.raises(InputError, match=r"no file with the split 'test' for task t; name the file test\.jsonl"):
        replaced(tmp_path, SPLITS | {"validation_split": None})
    with pytest.raises(InputError, match=r"no file with the split 'late' for task t; name the file late\.jsonl"):
        replaced(tmp_path, {"validation_split": "late"})


@pytest.mark.parametrize(
    ("own", "chosen", "examples"),
    [(None, None, 0), (None, 1, 1), (2, None, 2), (2, 1, 1), (0, 2, 0), (0, None, 0), (1, 2, 2), (2, 0, 2)],
)
def test_the_number_of_examples_is_the_users_or_that_of_the_task(
    tmp_path: Path, own: int | None, chosen: int | None, examples: int
) -> None:
    write(tmp_path, "test", items(1, 2, 3, 4))
    config, parts = replaced(tmp_path, {"test_split": "test", "num_fewshot": own}, chosen)
    assert parts == {"test": [1, 2, 3, 4][examples:]} | ({"fewshot": [1, 2, 3, 4][:examples]} if examples else {})
    assert config["fewshot_split"] == ("fewshot" if examples else None)
    assert config["fewshot_config"] == ({"sampler": "first_n"} if examples else None)


def test_examples_that_the_task_file_has_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "test", items(1, 2, 3))
    for fewshot in ({"samples": [{"n": 0}]}, {"samples": [{"n": 0}], "sampler": "default"}):
        config, parts = replaced(tmp_path, {"test_split": "test", "num_fewshot": 1, "fewshot_config": fewshot})
        assert parts == {"test": [1, 2, 3]}
        assert (config["fewshot_config"], config["fewshot_split"]) == (fewshot, None)
    config, _ = replaced(tmp_path, {"test_split": "test", "num_fewshot": 1, "fewshot_config": {"sampler": "random"}})
    assert config["fewshot_config"] == {"sampler": "random"}


def test_items_get_the_fields_of_the_first_form_that_fits(tmp_path: Path) -> None:
    forms = (
        presets.DataForm(("n", "absent"), (("n", "0"),), False),
        presets.DataForm(("n", "text"), (("n", "n * 10"), ("length", "text|length")), True),
        presets.DataForm(("n",), (("n", "n + 1"),), False),
    )
    write(tmp_path, "test", [{"n": 1, "text": "four"}, {"n": 2, "text": ""}])
    config, parts = replaced(tmp_path, {"test_split": "test"}, forms=forms)
    assert (parts, config["process_docs"]) == ({"test": [10, 20]}, None)
    assert config["custom_dataset"]()["test"][0] == {"n": 10, "text": "four", "length": 4}
    write(tmp_path, "train", items(5, 6))
    with pytest.raises(InputError, match=r"train\.jsonl: its items have other fields than those of test\.jsonl"):
        replaced(tmp_path, SPLITS, 1, forms=forms)
    write(tmp_path, "test", items(1, 2))
    config, parts = replaced(tmp_path, SPLITS, 1, forms=forms)
    assert (parts, config["process_docs"]) == ({"test": [2, 3], "fewshot": [6, 7]}, "own preparation")
    undefined = (presets.DataForm(("n",), (("n", "missing.deep"),), False),)
    with pytest.raises(InputError, match=r"test\.jsonl: an item has unexpected fields: \{'n': 1\} \('missing' is"):
        replaced(tmp_path, {"test_split": "test"}, forms=undefined)
    absent = (presets.DataForm(("n",), (("n", "missing"),), False),)
    with pytest.raises(InputError, match=r"test\.jsonl: an item has unexpected fields: \{'n': 1\} \(it has no missing"):
        replaced(tmp_path, {"test_split": "test"}, forms=absent)


def test_only_items_of_the_tasks_own_configuration_are_used(tmp_path: Path) -> None:
    write(tmp_path, "test", [{"n": i, "kind": "ab"[i % 2]} for i in range(5)])
    config = {"test_split": "test", "dataset_name": "b"}
    assert replaced(tmp_path, config, select="kind")[1] == {"test": [1, 3]}
    assert replaced(tmp_path, config, dataset="here", config="b")[1] == {"test": [0, 1, 2, 3, 4]}
    with pytest.raises(InputError, match=r"test\.jsonl: no item with kind 'c' for task t$"):
        replaced(tmp_path, config | {"dataset_name": "c"}, select="kind")
    for other in ({"dataset": "there"}, {"dataset": "here", "config": "c"}):
        message = f"task t: it needs the data set here, but {tmp_path} contains {other['dataset']}"
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            replaced(tmp_path, config, **other)
    (tmp_path / "test.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"test\.jsonl: no item for task t$"):
        replaced(tmp_path, config)


def test_files_are_read_again_only_if_they_change(tmp_path: Path) -> None:
    file = write(tmp_path, "test", items(1)) / "test.jsonl"
    assert read_jsonl(file) is read_jsonl(file)
    file.write_text('{"n": 1}\n\n  \n{"n": "café"}\n', encoding="utf-8")
    assert read_jsonl(file) == [{"n": 1}, {"n": "café"}]
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress('{"n": "你好"}\n'.encode()))
    assert read_jsonl(packed) == [{"n": "你好"}]
    file.write_text('{"n": 1}\n[2]\n')
    with pytest.raises(InputError, match=r"test\.jsonl:2: not a JSON object"):
        read_jsonl(file)
    with pytest.raises(InputError, match=r"absent\.jsonl: cannot be read \(No such file or directory\)"):
        read_jsonl(tmp_path / "absent.jsonl")


def test_every_listed_data_set_is_the_one_that_lm_evals_task_uses() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    from sweep.measure import lm_eval_tasks

    for data in presets.task_data().values():
        task = {"mmlu": "mmlu_anatomy", "mmmu_val": "mmmu_val_art"}.get(data.tasks[0], data.tasks[0])
        manager = lm_eval_tasks._manager(task, TaskLocation())
        config = load_yaml(manager.task_index[task].yaml_path, resolve_func=False)
        assert config["dataset_path"] == data.dataset
        assert data.config in (None, config.get("dataset_name"))
