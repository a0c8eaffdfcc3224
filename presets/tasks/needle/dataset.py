"""Loads the questions of a needle task for lm-eval, from a JSONL file beside this one."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset, DatasetDict


def load(file: str, **_: object) -> DatasetDict:
    """The test split; no cache is written, nothing is asked of a hub."""
    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines])})
