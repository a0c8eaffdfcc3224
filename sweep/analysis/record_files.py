"""Records of another machine: reads the JSON of `sweep report --json` or `sweep run --format json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from converters.errors import InputError
from sweep.record import Record, Samples

SOURCES = "`sweep report --json` or `sweep run --format json`"


@dataclass(frozen=True)
class SharedTask:
    """A task's score with its standard error, over `n` items."""

    metric: str
    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class SharedText:
    """The figures of a text, with what identifies it and its windows. `reference_model` identifies the content of the
    reference. `part` is how many windows were measured, and of how many, if only until enough was known; then
    `windows_sha256` is of the windows in random order, `text_windows_sha256` of them in the order of the text.
    `kld_samples` and `nll_samples` are None in records of earlier versions, and for too many windows."""

    kld: float | None
    kld_stderr: float | None
    perplexity: float | None
    perplexity_stderr: float | None
    name: str | None
    sha256: str | None
    window: int | None
    stride: int | None
    windows_sha256: str | None
    reference_model: str | None
    kld_samples: Samples | None
    nll_samples: Samples | None
    text_windows_sha256: str | None = None
    part: tuple[int, int] | None = None

    @property
    def in_order_sha256(self) -> str | None:
        """The hash of the windows in the order of the text."""
        return self.text_windows_sha256 or self.windows_sha256


@dataclass(frozen=True)
class SharedRecord:
    """What a record says that can be compared with another machine's. None: not measured.

    `texts` are the measured ones, the first one first. `samples` are those of the tasks in `Record`; empty in records
    of earlier versions, and without figures of too many units.
    """

    variant: str
    file_bytes: int | None
    tokens_per_s: float | None
    device: str
    reference: str | None
    texts: tuple[SharedText, ...]
    tasks: Mapping[str, SharedTask]
    samples: Mapping[str, Samples] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordSet:
    """The records of one run, by variant, and where they are from: the name of the run, or of the file."""

    name: str
    records: Mapping[str, SharedRecord]


def is_record_file(text: str) -> bool:
    """Whether an argument of `sweep compare` names a file of records instead of a run."""
    return Path(text).suffix in (".json", ".jsonl") or Path(text).is_file()


def read_record_file(path: Path) -> RecordSet:
    """The records of a file. Raises InputError if it is not the JSON of bitsweep, or has records of several runs."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text; give the output of {SOURCES}") from error
    rows: list[Any] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is not JSON; give the output of {SOURCES}") from error
    finished = [row["records"] for row in rows if isinstance(row, dict) and row.get("event") == "finished"]
    if not finished and any(isinstance(row, dict) and "event" in row for row in rows):
        raise InputError(f"{path}: the run did not finish, so there are no records; give the output of {SOURCES}")
    if len(finished) > 1:
        raise InputError(
            f"{path}: has the records of {len(finished)} runs; write one run with `sweep report RUN --json`"
        )
    return RecordSet(path.name, _by_variant(path, finished[0] if finished else rows))


def of_records(name: str, records: Iterable[Record]) -> RecordSet:
    """The records of a stored run."""
    return RecordSet(name, {record.variant: _shared(record.to_json(samples=True)) for record in records})


def _by_variant(path: Path, rows: Any) -> dict[str, SharedRecord]:
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: has no records; give the output of {SOURCES}")
    found: dict[str, SharedRecord] = {}
    for row in rows:
        try:
            one = _shared(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: is not the JSON of bitsweep; give the output of {SOURCES}") from error
        if one.variant in found:
            raise InputError(
                f"{path}: has {one.variant} twice, as records of several models do; write one run with "
                "`sweep report RUN --json`"
            )
        found[one.variant] = one
    return found


def _shared(row: dict[str, Any]) -> SharedRecord:
    """Raises KeyError, TypeError, ValueError or AttributeError if the row is no record."""
    row["status"], row["kind"]
    speed = row["speed"] or {}
    samples = {_string(name): _samples(own) for name, own in (row.get("samples") or {}).items()}
    parts = row.get("stopping") or {}
    first = _text(row, samples, "", parts)
    others = [_text(own, samples, f" {name}", parts) for name, own in (row.get("other_texts") or {}).items()]
    return SharedRecord(
        variant=_string(row["variant"]),
        file_bytes=None if row["file_bytes"] is None else int(row["file_bytes"]),
        tokens_per_s=None if speed.get("unstable") else _number(speed.get("decode_tokens_per_s")),
        device=_string(row["device"]),
        reference=None if row["reference"] is None else _string(row["reference"]),
        texts=tuple(one for one in (first, *others) if one.kld is not None or one.perplexity is not None),
        tasks={
            _string(name): SharedTask(
                _string(score["metric"]), float(score["value"]), _number(score["stderr"]), int(score["n"])
            )
            for name, score in (row["tasks"] or {}).items()
            if score["value"] is not None
        },
        samples=samples,
    )


def _text(
    row: dict[str, Any], samples: Mapping[str, Samples], suffix: str, parts: Mapping[str, dict[str, Any]]
) -> SharedText:
    """The figures of a text in `row`. `suffix` is the end of the names of its samples, and of its entry in `parts`."""
    part = parts.get(f"text{suffix}")
    divergence, perplexity, text = row["divergence"] or {}, row["perplexity"] or {}, row.get("text") or {}
    return SharedText(
        kld=_number(divergence.get("kld_mean")),
        kld_stderr=_number(divergence.get("kld_stderr")),
        perplexity=_number(perplexity.get("value")),
        perplexity_stderr=_number(perplexity.get("stderr")),
        name=text.get("name"),
        sha256=text.get("sha256"),
        window=text.get("window"),
        stride=text.get("stride"),
        windows_sha256=text.get("windows_sha256"),
        reference_model=text.get("reference_model"),
        kld_samples=samples.get(f"kld{suffix}"),
        nll_samples=samples.get(f"nll{suffix}"),
        text_windows_sha256=text.get("text_windows_sha256"),
        part=None if part is None else (int(part["samples"]), int(part["of"])),
    )


def _samples(row: dict[str, Any]) -> Samples:
    """Values that are not finite are null in JSON, and NaN here."""
    values = np.array(row["values"], dtype=np.float64)
    clusters = None if row.get("clusters") is None else np.array(row["clusters"], dtype=np.intp)
    if values.ndim != 1 or (clusters is not None and clusters.shape != values.shape):
        raise ValueError(row)
    return Samples(_string(row["units"]), values, clusters)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _number(value: Any) -> float | None:
    """A finite number, or None. Raises TypeError or ValueError for anything else."""
    found = None if value is None else float(value)
    return found if found is not None and isfinite(found) else None
