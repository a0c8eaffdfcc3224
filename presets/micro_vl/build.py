"""Writes the tasks and texts of micro-vl: drawings as PNG, questions and conversations as JSONL, text.

    python -m presets.micro_vl.build

The files are the same on every machine with the same FreeType, which draws the letters; so the files are shipped. The
shares of the levels, below, decide how hard each task is. They were chosen on the validation split.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from presets.micro_vl.world import corpus
from presets.micro_vl.world.drawing import GREYS, Drawing, drawings

ROOT = Path(__file__).parent
SEED = 7
TEXT_CHARACTERS = 200_000  # more than 60,000 tokens
CALIBRATION_CHARACTERS = 300_000
CALIBRATION_DRAWINGS = 64  # of each kind
CALIBRATION_EXCHANGES = 64  # conversations without an image


@dataclass(frozen=True)
class TaskSize:
    """How many drawings a task has, how many questions about each, and the shares of the levels."""

    drawings: int
    questions: int
    levels: tuple[int, ...]


TASKS = {
    "vl_form": TaskSize(100, 3, (1, 1, 1)),
    "vl_chart": TaskSize(100, 3, (1, 1, 1)),
    "vl_words": TaskSize(300, 1, (1, 1, 1)),
}


def png(drawing: Drawing) -> bytes:
    """A grey image with 4 bits per pixel."""
    step = 255 // (GREYS - 1)
    image = Image.fromarray((drawing.picture.pixels // step).astype(np.uint8), "P")
    image.putpalette([step * grey for grey in range(GREYS) for _ in range(3)])
    file = io.BytesIO()
    image.save(file, "PNG", bits=4, optimize=True)
    return file.getvalue()


def drawn(task: str, split: str, rng: Random) -> Iterator[Drawing]:
    """An endless stream of different drawings of a task."""
    seen = set()
    for drawing in drawings(corpus.KINDS[task], rng, split, TASKS[task].levels):
        if drawing.content.text not in seen:
            seen.add(drawing.content.text)
            yield drawing


def items(task: str, split: str = "test") -> Iterator[tuple[str, bytes, list[tuple[str, str]]]]:
    """For each drawing of a task: the name of its file, the file, and its questions with answers."""
    size, rng = TASKS[task], Random(f"{SEED} {task} {split}")
    for number, drawing in enumerate(islice(drawn(task, split, rng), size.drawings)):
        yield f"{task}/{number:03}.png", png(drawing), rng.sample(drawing.content.questions, size.questions)


def conversations() -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """For each calibration drawing, with the kinds in turn: the name of its file, the file, and a conversation."""
    rng = Random(f"{SEED} calibration")
    streams = {task: drawn(task, "calibration", rng) for task in TASKS}
    for number in range(CALIBRATION_DRAWINGS):
        for task, stream in streams.items():
            drawing = next(stream)
            name = f"images/{task}-{number:02}.png"
            asked = rng.sample(drawing.content.questions, TASKS[task].questions)
            yield name, png(drawing), {"messages": list(_messages(name, asked))}


def text_conversations() -> Iterator[dict[str, Any]]:
    """Conversations without an image: a model that was calibrated with images alone loses more on text."""
    found = corpus.exchanges(Random(f"{SEED} calibration without images"), "calibration")
    for asked in islice(found, CALIBRATION_EXCHANGES):
        yield {"messages": list(_messages(None, asked))}


def _messages(image: str | None, asked: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for number, (question, answer) in enumerate(asked):
        if image is None:
            yield {"role": "user", "content": question}
            yield {"role": "assistant", "content": answer}
            continue
        shown = [{"type": "image", "image": image}] if number == 0 else []
        yield {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
        yield {"role": "assistant", "content": answer}


def files() -> Iterator[tuple[str, bytes]]:
    """Every file that this program writes, as a path below ROOT, with its bytes."""
    for task in TASKS:
        rows = []
        for name, raw, asked in items(task):
            yield f"tasks/{name}", raw
            rows += [{"image": name, "question": question, "answer": answer} for question, answer in asked]
        yield f"tasks/{task}.jsonl", _lines(rows)
    kept = []
    without = text_conversations()
    for number, (name, raw, conversation) in enumerate(conversations(), 1):
        yield f"text/{name}", raw
        kept.append(conversation)
        if number % len(TASKS) == 0:  # spread evenly, because a reader may take only every n-th line
            kept += islice(without, 1)
    yield "text/calibration.jsonl", _lines([*kept, *without])
    for file, split, characters in (
        ("test", "test", TEXT_CHARACTERS),
        ("calibration", "calibration", CALIBRATION_CHARACTERS),
    ):
        yield f"text/{file}.txt", corpus.text(Random(f"{SEED} {file}"), split, characters).encode()


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return ("\n".join(json.dumps(row) for row in rows) + "\n").encode()


def main() -> None:
    for folder in (*(ROOT / "tasks" / task for task in TASKS), ROOT / "text"):
        shutil.rmtree(folder, ignore_errors=True)
    for path, raw in files():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(raw)


if __name__ == "__main__":
    main()
