"""Records as JSON lines and as CSV, for scripts and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from math import isfinite
from typing import Any

from sweep.record import Divergence, Record

# What is a row or a table of its own stays in JSON.
_TABLES = ("kld_percentiles", "delta_p_percentiles", "by_confidence")
# Nested parts of a record and the columns they become.
_PARTS = {
    "memory": ("predicted_bytes", "measured_bytes"),
    "perplexity": ("value", "stderr", "tokens", "low", "high"),
    "divergence": tuple(field.name for field in fields(Divergence) if field.name not in _TABLES),
    "speed": ("prompt_tokens_per_s", "decode_tokens_per_s"),
}
_HEAD = ("variant", "kind", "status", "error", "file_bytes", "bits_per_weight")
_TAIL = ("reference", "kv_type", "device")
_SCORE = ("metric", "value", "stderr", "n", "delta", "delta_stderr", "p_value", "flips", "chance", "higher_is_better")


def finite(value: Any) -> Any:
    """The same tree with NaN and infinities as None: neither JSON nor a spreadsheet has a number for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def to_json_lines(records: Sequence[Record]) -> str:
    """One JSON object a line and variant, in the shape of `Record.to_json`; what was not measured is null."""
    return "".join(f"{json.dumps(finite(record.to_json()), allow_nan=False)}\n" for record in records)


def to_csv(records: Sequence[Record]) -> str:
    """A header and one row per variant; `perplexity.value`, `tasks.micro_sums.delta` and so on; nulls are empty.

    Every task of any record has its columns, in the order of first appearance.
    """
    rows = [_flat(finite(record.to_json())) for record in records]
    parts = [f"{part}.{name}" for part, names in _PARTS.items() for name in names]
    tasks = dict.fromkeys(key for row in rows for key in row if key not in {*_HEAD, *_TAIL, *parts})
    out = io.StringIO()
    writer = csv.DictWriter(out, [*_HEAD, *parts, *tasks, *_TAIL], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: row[name] for name in (*_HEAD, *_TAIL)}
    for part, names in _PARTS.items():
        flat |= {f"{part}.{name}": (row[part] or {}).get(name) for name in names}
    for task, score in row["tasks"].items():
        flat |= {f"tasks.{task}.{name}": score[name] for name in _SCORE}
        flat |= {f"tasks.{task}.other.{name}": value for name, value in score["other"].items()}
    return flat
