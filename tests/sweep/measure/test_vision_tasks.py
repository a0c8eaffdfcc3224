"""The task files for vision-language models: their metrics, prompts, limits of pixels and data.

Expected scores are those of lmms-eval's functions for these texts (tasks/chartqa, tasks/ocrbench_v2), and for ANLS
those of its definition.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from letters_backend import LettersBackend
from PIL import Image

import presets
from converters.errors import InputError
from images.preprocessing import Preprocessing
from sweep.measure.harness import TaskRun, run_task
from sweep.measure.lm_eval_tasks import TaskLocation
from sweep.measure.local_data import SEVERAL
from sweep.measure.task_options import TaskOptions
from sweep.planning.model import ResolvedModel
from sweep.planning.tasks import tasks_for

PROCESSOR = Preprocessing(16, 2, 2, 32 * 32, 1 << 24, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def metrics() -> Iterator[ModuleType]:
    """The module beside the task files, which is in no package."""
    sys.path.insert(0, str(presets.VISION_TASKS))
    try:
        import metrics as found
    finally:
        sys.path.remove(str(presets.VISION_TASKS))
    yield found
    del sys.modules["metrics"]


def test_the_edit_distance_is_that_of_the_table_of_wagner_and_fischer(metrics: ModuleType) -> None:
    def table(first: str, second: str) -> int:
        row = list(range(len(second) + 1))
        for i, one in enumerate(first, 1):
            above, row = row, [i]
            for j, other in enumerate(second, 1):
                row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (one != other)))
        return row[-1]

    generator = random.Random(0)
    for _ in range(300):
        first, second = ("".join(generator.choices("abcä", k=generator.randrange(12))) for _ in range(2))
        assert metrics.edit_distance(first, second) == table(first, second)


@pytest.mark.parametrize(
    ("text", "answers", "score"),
    [
        ("paris", ["Paris"], 1.0),
        ("pariss", ["Paris"], 5 / 6),
        ("1200", ["1,200"], 0.8),
        ("ac", ["ab"], 0.5),  # the threshold itself counts
        ("xyc", ["abc"], 0.0),
        ("a b", ["a  b"], 1.0),
        ("North west", [" north  west "], 1.0),
        ("a bc", ["a   bd"], 1 - 1 / 6),  # the length is that before blanks are removed
        ("ss", ["ß"], 0.0),
        ("strasse", ["straße"], 1 - 2 / 7),
        ("", [""], 1.0),
        ("", ["12"], 0.0),
        ("united state", ["x", "United States"], 12 / 13),
    ],
)
def test_anls(metrics: ModuleType, text: str, answers: list[str], score: float) -> None:
    assert metrics.anls(text, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("105", "100", True),
        ("94.99", "100", False),
        ("95", "100", True),
        ("2010", "2000", True),  # years are numbers too
        ("50%", "0.5", True),
        ("50", "50%", False),
        ("-105", "-100", True),
        ("1,200", "1200", False),
        ("$5", "5", False),
        ("Yes", "yes", True),
        ("yes.", "yes", False),
        ("0", "0", True),
        ("0.0", "0", False),  # an answer of 0 is a text
        ("", "", True),
        ("nan", "5", False),
        ("1e2", "100", True),
        ("%", "%", True),
    ],
)
def test_relaxed_accuracy(metrics: ModuleType, text: str, answer: str, right: bool) -> None:
    assert metrics.relaxed_accuracy(text, answer) == float(right)


@pytest.mark.parametrize(
    ("text", "answers", "similarity", "match", "with_case"),
    [
        ("STOP", ["STOP"], 1.0, 1.0, 1.0),
        ("stop", ["STOP"], 0.0, 1.0, 0.0),
        ("The sign says STOP", ["STOP"], 4 / 18, 1.0, 1.0),
        ("a\nb", ["a b"], 2 / 3, 1.0, 1.0),
        ("", ["abc"], 0.0, 0.0, 0.0),
        ("one two three four fiv", ["one two three four five"], 1 - 1 / 23, 1 - 1 / 23, 1 - 1 / 23),
        ("so: one two three four five", ["one two three four five"], 1 - 4 / 27, 1 - 4 / 27, 1 - 4 / 27),
        ("none of it", ["one two three four five"], None, 0.0, 0.0),
        ("abd", ["xyz", "abc"], 2 / 3, 0.0, 0.0),
    ],
)
def test_similarity_and_match_of_read_text(
    metrics: ModuleType, text: str, answers: list[str], similarity: float | None, match: float, with_case: float
) -> None:
    if similarity is not None:
        assert metrics.similarity(text, answers) == pytest.approx(similarity)
    assert metrics.substring_match(text, answers) == pytest.approx(match)
    assert metrics.substring_match(text, answers, case=True) == pytest.approx(with_case)


@pytest.mark.parametrize(
    ("text", "box", "score"),
    [
        ("[50, 50, 150, 150]", [60, 60, 140, 140], 0.64),
        ("(0,0,10,10)", ["0", "0", "10", "10"], 1.0),
        ("[0, 0, 9, 9] or rather (0, 0, 10, 10)", [0, 0, 10, 10], 1.0),
        ("[0, 0, 10, 10] [0, 0, 2000, 10]", [0, 0, 10, 10], 1.0),  # outside of the image
        ("[0, 0, 10, 10]", [20, 20, 30, 30], 0.0),
        ("no box", [0, 0, 1, 1], 0.0),
        ("[5, 5, 5, 5]", [5, 5, 5, 5], 0.0),
        ("[1, 1, 2, 2]", ["x", 1, 2, 2], 0.0),
    ],
)
def test_overlap_of_boxes(metrics: ModuleType, text: str, box: list[Any], score: float) -> None:
    assert metrics.overlap(text, box) == pytest.approx(score)


def png(seed: int) -> bytes:
    raw = io.BytesIO()
    Image.new("L", (640, 320 + 32 * seed), 20 * seed).save(raw, "PNG")
    return raw.getvalue()


DOCVQA = [{"questionId": i, "question": f"Who is {i}?", "answers": ["sot", "me"], "image": "p/0.png"} for i in range(2)]
CHARTQA = [
    {"type": kind, "question": "How many?", "answer": answer, "image": "p/1.png"}
    for kind, answer in (("human_test", "so"), ("augmented_test", "4"), ("augmented_test", "SO"))
]
OCR = [
    {"type": kind, "question": question, "answers": answers, "eval": how, "image_path": "p/0.png"}
    for kind, question, answers, how in (
        ("text recognition en", " Read it. ", ["so"], "None"),
        ("text recognition en", "Read", ["SO"], "case sensitive"),
        ("document parsing en", "Parse", ["son"], "None"),
        ("table parsing cn", "Parse", ["sso"], "None"),
        ("chart parsing en", "Parse", ["{}"], "None"),
        ("text grounding en", "Where?", ["0", "0", "5", "5"], "None"),
    )
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    files = {"docvqa/val.jsonl": DOCVQA, "chartqa_relaxed/test.jsonl": CHARTQA, "ocrbench_v2/test.jsonl": OCR}
    for name, rows in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / name).with_name("p").mkdir()
        for seed in range(2):
            (tmp_path / name).with_name("p").joinpath(f"{seed}.png").write_bytes(png(seed))
    return tmp_path


def run(name: str, folder: Path, **settings: Any) -> tuple[TaskRun, LettersBackend]:
    """Run a task as the command line would find it. Its answers are "so"."""
    (task,) = tasks_for(ResolvedModel("m", Path("m"), "f" * 64, 1024), (name,), TaskOptions(**settings), folder)
    assert task.takes_images
    backend = LettersBackend(preprocessing=PROCESSOR)
    location = task.location(Path())
    assert location == TaskLocation(
        None, folder / (task.data.name.rpartition("/")[2] if task.data else ""), task.data_name
    ) or (task.data_name == SEVERAL)
    return run_task(backend, task.name, location, task.options), backend


def test_prompts_limits_and_scores_are_those_of_the_published_evaluations(data: Path) -> None:
    found, backend = run("docvqa", data)
    prompt = (
        "You are a helpful assistant.<|vision_start|><|vision_end|>Who is {}?\n"
        "Answer the question using a single word or phrase."
    )
    assert ["".join(map(chr, asked.prompt)) for asked in backend.asked] == [prompt.format(i) for i in range(2)]
    assert [asked.max_new_tokens for asked in backend.asked] == [32, 32]
    assert found.pixels == backend.asked[0].images[0].image.limits == (200704, 1605632)
    assert (found.primary.name, found.primary.value, found.n) == ("anls", pytest.approx(2 / 3), 2)
    chosen = replace(PROCESSOR, max_pixels=100_000, fixed=True)  # by the user
    assert (
        chosen.grid(backend.asked[0].images[0].image).tokens
        <= 97
        < PROCESSOR.grid(backend.asked[0].images[0].image).tokens
    )
    fixed = run_task(LettersBackend(preprocessing=chosen), "docvqa", TaskLocation(None, data / "docvqa", "docvqa"))
    assert fixed.pixels == (PROCESSOR.min_pixels, 100_000)
    found, backend = run("chartqa_relaxed", data)
    assert "".join(map(chr, backend.asked[0].prompt)).endswith(">How many?\nAnswer the question with a single word.")
    assert backend.asked[0].max_new_tokens == 16
    assert {one.name: one.value for one in found.metrics} == pytest.approx(
        {"relaxed_accuracy": 2 / 3, "human": 1.0, "augmented": 0.5, "score": 2 / 3}
    )
    found, backend = run("ocr", data)
    assert "".join(map(chr, backend.asked[0].prompt)).endswith("<|vision_end|>Read it.")
    assert backend.asked[0].max_new_tokens == 128
    assert {one.name: one.value for one in found.metrics} == {"similarity": 0.5, "substring_match": 0.5, "score": 0.5}
    assert found.primary.name == "similarity"


def test_groups_are_the_plain_means_of_their_tasks(data: Path) -> None:
    found, backend = run("overall", data)
    assert found.primary.value == pytest.approx((2 / 3 + 2 / 3 + 0.5) / 3)
    assert {item.task for item in found.items} == {"docvqa", "chartqa_relaxed", "ocr"}
    assert len(backend.asked) == 7
    found, _ = run("ocrbench_v2", data)
    assert found.primary.value == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)
    (data / "docvqa/val.jsonl").unlink()
    with pytest.raises(InputError, match="overall needs the data of docvqa too, each in a folder of its name"):
        run("overall", data)


def test_parquet_files_and_their_parts_are_read_with_their_images(data: Path) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features({"question": Value("string"), "answers": [Value("string")], "image": ImageFeature()})
    folder = data / "docvqa"
    (folder / "val.jsonl").unlink()
    for part in range(2):
        raw = png(1) if part else png(0)[:50]  # the first is damaged
        rows = [{"question": f"Q{part}", "answers": ["so"], "image": {"bytes": raw, "path": f"{part}.png"}}]
        Dataset.from_list(rows, features).to_parquet(folder / f"validation-{part:05}-of-00002.parquet")
    found, backend = run("docvqa", data)
    assert [item.doc_id for item in found.items] == [1]
    assert found.unusable[0].startswith("item 0: 0.png: the image cannot be decoded")
    assert backend.asked[0].images[0].image.width == 640
    (folder / "validation-00001-of-00002.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"validation-00001-of-00002\.parquet: cannot be read as Parquet"):
        run("docvqa", data)


def test_other_published_fields_of_chartqa_are_read(data: Path) -> None:
    file = data / "chartqa_relaxed/test.jsonl"
    (data / "chartqa_relaxed/p").rename(data / "chartqa_relaxed/png")
    file.write_text(json.dumps({"imgname": "1.png", "query": "Q", "label": "so"}))
    assert run("chartqa_relaxed", data)[0].primary.value == 1.0
    row = {"image": "png/1.png", "query": "Q", "label": ["so"], "human_or_machine": 0}
    file.write_text("\n".join(json.dumps(row | {"human_or_machine": kind}) for kind in (0, 1, 1)))
    found = run("chartqa_relaxed", data)[0]
    assert [one.name for one in found.metrics] == ["relaxed_accuracy", "human", "augmented", "score"]


def test_mmmu_is_lm_evals_own_with_the_files_of_its_subjects(tmp_path: Path) -> None:
    from datasets import Dataset

    row = {"id": "v", "question": "What is <image 1>?", "options": "['so', 'no']", "answer": "A"}
    row |= {"question_type": "multiple-choice", **{f"image_{i}": None for i in range(2, 8)}}
    for subject in ("Art", "Math"):
        place = tmp_path / "mmmu" / subject
        place.mkdir(parents=True)
        raw = {"bytes": png(1), "path": "a.png"}
        Dataset.from_list([row | {"image_1": raw}]).to_parquet(place / "validation-00000-of-00001.parquet")
    for name, subject in (("mmmu_val_art", "Art"), ("mmmu_val_math", "Math")):
        found, backend = run(name, tmp_path)
        assert (found.n, subject in name.title()) == (1, True)
        assert found.pixels == (PROCESSOR.min_pixels, PROCESSOR.max_pixels)  # the task states none
        assert "What is <|vision_start|><|vision_end|>?" in "".join(map(chr, backend.asked[0].prompt))


def test_task_files_of_this_program_are_part_of_the_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def identity() -> str:
        return tasks_for(ResolvedModel("m", Path("m"), "f" * 64, 1024), ("docvqa",), TaskOptions(), None)[0].identity

    from sweep.measure import task_names

    before = identity()
    for file in presets.VISION_TASKS.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(presets, "VISION_TASKS", tmp_path)
    task_names._contents.cache_clear()
    assert identity() == before
    (tmp_path / "metrics.py").write_text("# another version\n")
    assert identity() != before
