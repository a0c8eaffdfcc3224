"""The metrics of the vision tasks, as lmms-eval and OCRBench v2 define them, and what their task files call."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

ANLS_THRESHOLD = 0.5  # a text with less than half of an answer in common scores 0
TOLERANCE = 0.05  # of relaxed accuracy: a number may differ by this share
SHORT = 5  # an answer with fewer words counts if it is anywhere in the text
COORDINATES = re.compile(r"[(\[]\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*[)\]]")
LARGEST = 1000  # coordinates are thousandths of the image

Document = dict[str, Any]
Scores = dict[str, float]


def edit_distance(first: str, second: str) -> int:
    """The Levenshtein distance, with bit vectors (Myers 1999, doi:10.1145/316542.316550)."""
    if not first or not second:
        return len(first) + len(second)
    places: dict[str, int] = {}
    for i, letter in enumerate(first):
        places[letter] = places.get(letter, 0) | 1 << i
    ones, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    up, down, distance = ones, 0, len(first)  # places whose cell is one more, or one less, than the cell above
    for letter in second:
        equal = places.get(letter, 0)
        kept = (((equal & up) + up) ^ up) | equal
        right, left = down | ones & ~(kept | up), up & kept
        distance += bool(right & last) - bool(left & last)
        right, left = (right << 1 | 1) & ones, (left << 1) & ones
        up, down = left | ones & ~(equal | down | right), right & (equal | down)
    return distance


def anls(text: str, answers: Sequence[str]) -> float:
    """The similarity of the text and the nearest answer, ignoring case and repeated blanks; 0 below ANLS_THRESHOLD.

    Distances are divided by the length before blanks are removed, as lmms-eval does.
    """

    def distance(answer: str) -> float:
        length = max(len(answer.upper()), len(text.upper()))
        return edit_distance(_plain(answer), _plain(text)) / length if length else 0.0

    score = 1 - min(map(distance, answers))
    return score if score >= ANLS_THRESHOLD else 0.0


def _plain(text: str) -> str:
    return " ".join(text.strip().lower().split())


def relaxed_accuracy(text: str, answer: str) -> float:
    """1 if both are numbers that differ by at most TOLERANCE of the answer, or texts that are equal but for case.

    A number may end in %, which divides it by 100. An answer of 0 is compared as text. Masry et al. (arXiv 2203.10244).
    """
    found, wanted = _number(text), _number(answer)
    if found is not None and wanted:
        return float(abs(found - wanted) / abs(wanted) <= TOLERANCE)
    return float(text.lower() == answer.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def similarity(text: str, answers: Sequence[str]) -> float:
    """1 - edit distance / length of the longer one, of the text and the nearest answer (1-NED)."""
    return max(1 - edit_distance(text, answer) / max(len(text), len(answer), 1) for answer in answers)


def substring_match(text: str, answers: Sequence[str], *, case: bool = False) -> float:
    """OCRBench v2's score of short texts: 1 if an answer of less than SHORT words is in the text.

    A longer answer scores its similarity if that is at least ANLS_THRESHOLD. Case is ignored unless `case`.
    """

    def plain(value: str) -> str:
        return (value if case else value.lower()).strip().replace("\n", " ")

    score = 0.0
    for answer in map(plain, answers):
        if len(answer.split()) < SHORT:
            score = 1.0 if answer in plain(text) else score
        elif (near := similarity(plain(text), [answer])) >= ANLS_THRESHOLD:
            score = max(score, near)
    return score


def overlap(text: str, box: Sequence[Any]) -> float:
    """Intersection over union of `box` (left, top, right, bottom) and the last box in the text; 0 if it has none."""
    boxes = [tuple(map(int, found.groups())) for found in COORDINATES.finditer(text)]
    boxes = [one for one in boxes if max(one) <= LARGEST]
    try:
        wanted = tuple(int(coordinate) for coordinate in box)
    except (TypeError, ValueError):
        return 0.0
    if not boxes or len(wanted) != 4:
        return 0.0
    first = boxes[-1]
    width = min(first[2], wanted[2]) - max(first[0], wanted[0])
    height = min(first[3], wanted[3]) - max(first[1], wanted[1])
    common = max(0, width) * max(0, height)
    union = sum((one[2] - one[0]) * (one[3] - one[1]) for one in (first, wanted)) - common
    return common / union if union else 0.0


def score_docvqa(document: Document, results: Sequence[str]) -> Scores:
    score = anls(results[0], document["answers"])
    return {"anls": score, "score": score}


def score_chartqa(document: Document, results: Sequence[str]) -> Scores:
    score = relaxed_accuracy(results[0], document["answer"])
    kind = str(document.get("type") or "").partition("_")[0]
    return {"relaxed_accuracy": score, **({kind: score} if kind in ("human", "augmented") else {}), "score": score}


def score_ocr(document: Document, results: Sequence[str]) -> Scores:
    answers = [str(answer) for answer in document["answers"]]
    score = similarity(results[0], answers)
    match = substring_match(results[0], answers, case=document.get("eval") == "case sensitive")
    return {"similarity": score, "substring_match": match, "score": score}


def score_parsing(document: Document, results: Sequence[str]) -> Scores:
    score = similarity(results[0], [str(answer) for answer in document["answers"]])
    return {"similarity": score, "score": score}


def score_grounding(document: Document, results: Sequence[str]) -> Scores:
    score = overlap(results[0], document["answers"])
    return {"iou": score, "score": score}


def _of(*types: str) -> Callable[[Any], Any]:
    """The items of OCRBench v2 of these types."""

    def process_docs(documents: Any) -> Any:
        return documents.select([i for i, kind in enumerate(documents["type"]) if kind in types])

    return process_docs


text_recognition = _of("text recognition en")
documents = _of("document parsing en", "document parsing cn")
tables = _of("table parsing en", "table parsing cn")
charts = _of("chart parsing en")
grounding = _of("text grounding en")
