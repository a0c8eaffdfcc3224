"""Records as JSON lines and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

from sweep.record import Record

# The nested parts of a record, and the CSV columns that each always has. Lists are in JSON only.
_PARTS = {
    "memory": ("predicted_bytes", "measured_bytes"),
    "perplexity": ("value", "stderr", "tokens", "low", "high"),
    "divergence": ("kld_mean", "kld_stderr", "kld_p99_9", "kld_max", "top1_agreement", "noise_floor"),
    "speed": (
        "prompt_tokens_per_s",
        "decode_tokens_per_s",
        *("prompt_low", "prompt_high", "decode_low", "decode_high", "measurements", "unstable"),
    ),
}
_HEAD = ("variant", "kind", "status", "error", "file_bytes", "bits_per_weight")
_TAIL = ("reference", "task_reference", "reference_reason", "kv_type", "device", "worse_than_rounding")


def finite(value: Any) -> Any:
    """The same tree with None in place of NaN and infinities, which JSON cannot represent."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def to_json_lines(records: Sequence[Record], models: Sequence[str] = ()) -> str:
    """One JSON object per line and variant, as `Record.to_json` gives it with samples. What was not measured is null.

    `models`: the model of each record, for records of several models.
    """
    rows = _with_models(records, models, samples=True)
    return "".join(f"{json.dumps(finite(row), allow_nan=False)}\n" for row in rows)


def _with_models(records: Sequence[Record], models: Sequence[str], *, samples: bool = False) -> list[dict[str, Any]]:
    rows = [record.to_json(samples=samples) for record in records]
    return [{"model": model, **row} for model, row in zip(models, rows, strict=True)] if models else rows


def flat_rows(records: Sequence[Record], models: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A dictionary per variant, with names such as `perplexity.value`. Lists are left out."""
    return [dict(flat(finite(row))) for row in _with_models(records, models)]


def to_csv(records: Sequence[Record], models: Sequence[str] = ()) -> str:
    """A header and one row per variant. Columns have names such as `perplexity.value`; nulls are empty cells.

    Columns that only some records have (tasks, figures of extensions) come in the order of their first appearance.
    `models`: the model of each record, for records of several models.
    """
    rows = flat_rows(records, models)
    parts = [f"{part}.{name}" for part, names in _PARTS.items() for name in names]
    head = ["model", *_HEAD] if models else _HEAD
    known = {*head, *_TAIL, *parts, *_PARTS, "study", "speed_at_depth"}  # a part that only some records have
    others = dict.fromkeys(key for row in rows for key in row if key not in known)
    out = io.StringIO()
    columns = [*head, *parts, *others, *_TAIL]
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def flat(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree with the names of their fields, joined by dots. Lists are left out."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list | tuple):
            yield prefix + name, value
