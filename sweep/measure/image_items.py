"""Items of a task with images as conversations, for calibration with the training items of a data set.

A line of such a file is an item: {"image": "x.png", "question": "Total?", "answer": "12.40"}. Data sets have other
names for these fields too, and several right answers, of which the first is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

IMAGES = ("image", "image_path")
QUESTIONS = ("question", "query")
ANSWERS = ("answer", "answers", "label")


def item_messages(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The messages of an item: its image with the question, and the answer; None for anything else."""
    image, question, answer = (_first_text(row, names) for names in (IMAGES, QUESTIONS, ANSWERS))
    if image is None or question is None or answer is None:
        return None
    parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]


def _first_text(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    for name in names:
        found = row.get(name)
        text = found[0] if isinstance(found, list) and found else found
        if isinstance(text, str) and text:
            return text
    return None
