"""What the task files need beside YAML: their JSONL data, and the check of a written function by its examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from presets.micro.interpreter import Refused, call


def load(file: str, **_: object) -> DatasetDict:
    """The test split from a JSONL file beside this one; no cache is written, nothing is asked of a hub."""
    rows = Dataset.from_list([_row(line) for line in (Path(__file__).parent / file).read_text().splitlines()])
    return DatasetDict({"test": rows})


def _row(line: str) -> dict[str, Any]:
    return dict(json.loads(line))


def run_tests(doc: dict[str, Any], results: list[str]) -> dict[str, int]:
    """1 if the expression gives the stated result for every hidden input, else 0."""
    source = f"def f(x, y):\n    return{results[0]}"
    try:
        passed = all(call(source, test["x"], test["y"]) == test["result"] for test in json.loads(doc["tests"]))
    except Refused:
        passed = False
    return {"pass": int(passed)}
