"""What the task files need beside YAML: their JSONL data, and the scores of words that were read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict


def load(file: str, **_: object) -> DatasetDict:
    """The test split from a JSONL file beside this one; no cache is written, nothing is asked of a hub.

    The paths of images are relative to this folder.
    """
    lines = (Path(__file__).parent / file).read_text().splitlines()
    return DatasetDict({"test": Dataset.from_list([dict(json.loads(line)) for line in lines])})


def score_reading(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`exact_match`, and `similarity`: 1 - edit distance / length of the longer text (1-NED of OCR benchmarks)."""
    read, wanted = results[0], doc["answer"]
    longer = max(len(read), len(wanted))
    return {"exact_match": float(read == wanted), "similarity": 1 - edit_distance(read, wanted) / longer}


def edit_distance(one: str, other: str) -> int:
    """The smallest number of insertions, deletions and replacements of characters (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]
