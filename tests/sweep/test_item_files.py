"""The training items of a data set as a calibration text: Parquet files, and task:NAME."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from converters.errors import InputError
from sweep.measure.conversations import read_conversations
from sweep.measure.text_form import TextForm
from sweep.planning import item_files
from sweep.planning.item_files import items_file
from sweep.planning.texts import calibration_text

FEATURES = Features(
    {"query": Value("string"), "label": [Value("string")], "image": ImageFeature(), "id": Value("int64")}
)


def png(shade: int) -> bytes:
    raw = io.BytesIO()
    Image.new("L", (8, 8), shade).save(raw, "PNG")
    return raw.getvalue()


def parquet(file: Path, numbers: range, features: Features = FEATURES) -> Path:
    rows = [
        {"query": f"Q{i}", "label": [f"A{i}", "other"], "image": {"bytes": png(i), "path": f"{i}.png"}, "id": i}
        for i in numbers
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in features}
    Dataset.from_dict(columns, features).to_parquet(file)
    return file


def answers(file: Path) -> list[str]:
    return [one.messages[1]["content"] for one in read_conversations(file)]


def test_the_parts_of_a_split_become_conversations_with_their_images(tmp_path: Path) -> None:
    first = parquet(tmp_path / "train-00000-of-00002.parquet", range(2))
    parquet(tmp_path / "train-00001-of-00002.parquet", range(2, 5))
    parquet(tmp_path / "test-00000-of-00001.parquet", range(9, 10))
    file = items_file(str(first), tmp_path / "texts", None)
    found = read_conversations(file)
    assert [one.messages[0]["content"] for one in found] == [
        [{"type": "image"}, {"type": "text", "text": f"Q{i}"}] for i in range(5)
    ]
    assert answers(file) == [f"A{i}" for i in range(5)]
    assert [one.images[0].read_bytes() for one in found] == [png(i) for i in range(5)]
    written = file.stat().st_mtime_ns
    assert items_file(str(first), tmp_path / "texts", None).stat().st_mtime_ns == written
    text = calibration_text(str(first), None, workspace=tmp_path).file
    assert (text.name, text.form) == (f"{first.name} (conversations with images)", TextForm.IMAGES)
    parquet(tmp_path / "train-00001-of-00002.parquet", range(2, 4))
    assert calibration_text(str(first), None, workspace=tmp_path).file.identity != text.identity


def test_of_many_items_some_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_files, "MOST_ITEMS", 4)
    first = parquet(tmp_path / "train-0-of-2.parquet", range(70))  # more than a batch
    parquet(tmp_path / "train-1-of-2.parquet", range(70, 80))
    assert answers(items_file(str(first), tmp_path / "texts", None)) == ["A0", "A20", "A40", "A60"]


def test_a_task_stands_for_the_training_split_of_its_local_data(tmp_path: Path) -> None:
    parquet(tmp_path / "docvqa" / "train-00000-of-00001.parquet", range(3))
    (tmp_path / "chartqa_relaxed").mkdir()
    (tmp_path / "chartqa_relaxed" / "1.png").write_bytes(png(1))
    row = {"image": "1.png", "question": "Text?", "answer": "abc"}
    (tmp_path / "chartqa_relaxed" / "train.jsonl").write_text(json.dumps(row))
    assert answers(items_file("task:docvqa", tmp_path / "texts", tmp_path)) == ["A0", "A1", "A2"]
    training = tmp_path / "chartqa_relaxed" / "train.jsonl"
    assert items_file("task:chartqa_relaxed", tmp_path / "texts", tmp_path) == training
    text = calibration_text("task:chartqa_relaxed", None, workspace=tmp_path, task_data=tmp_path).file
    assert (text.name, text.form) == ("task:chartqa_relaxed (conversations with images)", TextForm.IMAGES)


def test_what_has_no_items_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    none = Features({name: FEATURES[name] for name in ("query", "image")})
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    cases = {
        str(
            parquet(tmp_path / "no-answer.parquet", range(1), none)
        ): r"no-answer.parquet, row 1: has no text in a column",
        str(parquet(tmp_path / "empty.parquet", range(0))): "empty.parquet: has no items",
        str(tmp_path / "broken.parquet"): "broken.parquet: cannot be read as Parquet",
        str(tmp_path / "absent.parquet"): "absent.parquet: there is no such file",
        "task:docvqa": "no file of its training split in .*docvqa; name it train.jsonl",
    }
    paths = Features({**FEATURES, "image": Value("string")})
    file = tmp_path / "paths.parquet"
    Dataset.from_list([{"query": "Q", "label": ["A"], "image": "x.png", "id": 0}], paths).to_parquet(file)
    cases[str(file)] = "paths.parquet, row 1: has no bytes of an image"
    for chosen, message in cases.items():
        with pytest.raises(InputError, match=message) as error:
            items_file(chosen, tmp_path / "texts", tmp_path)
        assert "\n" not in str(error.value)
    assert list((tmp_path / "texts").iterdir()) == []
    with pytest.raises(InputError, match="task:docvqa: give the directory with its data with --task-data"):
        items_file("task:docvqa", tmp_path / "texts", None)
