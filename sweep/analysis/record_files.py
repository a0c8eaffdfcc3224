"""Records of another machine: reads the JSON of `sweep report --json` or `sweep run --format json`, and compares it
with a stored run or another file, if both measured the same text against the same reference.

There are no items and windows in these files, so nothing is paired: a difference has the errors of both sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import hypot, isfinite
from pathlib import Path
from typing import Any

from converters.errors import InputError
from sweep.record import Record

_SOURCES = "`sweep report --json` or `sweep run --format json`"


@dataclass(frozen=True)
class SharedTask:
    """A task's score with its standard error, over `n` items."""

    metric: str
    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class SharedRecord:
    """What a record says that can be compared with another machine's. None: not measured.

    The fields of the text identify it and its windows, `reference_model` the content of the reference.
    """

    variant: str
    file_bytes: int | None
    kld: float | None
    kld_stderr: float | None
    perplexity: float | None
    perplexity_stderr: float | None
    tokens_per_s: float | None
    device: str
    reference: str | None
    text_name: str | None
    text_sha256: str | None
    window: int | None
    stride: int | None
    windows_sha256: str | None
    reference_model: str | None
    tasks: Mapping[str, SharedTask]

    @property
    def has_text(self) -> bool:
        """Whether a text was measured."""
        return self.kld is not None or self.perplexity is not None


@dataclass(frozen=True)
class RecordSet:
    """The records of one run, by variant, and where they are from: the name of the run, or of the file."""

    name: str
    records: Mapping[str, SharedRecord]


@dataclass(frozen=True)
class SharedDifference:
    """One figure of one variant in A and B. `delta` is b - a, `stderr` its error without pairing; None if one of the
    two has no error."""

    variant: str
    figure: str
    a: float
    b: float
    delta: float
    stderr: float | None


@dataclass(frozen=True)
class RecordComparison:
    """The differences between two sets of records: text figures and tasks, then speeds. `notes` say what is not
    compared."""

    a: str
    b: str
    text: str | None
    reference: str
    differences: tuple[SharedDifference, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
        raise InputError(f"{path}: is not text; give the output of {_SOURCES}") from error
    rows: list[Any] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is not JSON; give the output of {_SOURCES}") from error
    finished = [row["records"] for row in rows if isinstance(row, dict) and row.get("event") == "finished"]
    if not finished and any(isinstance(row, dict) and "event" in row for row in rows):
        raise InputError(f"{path}: the run did not finish, so there are no records; give the output of {_SOURCES}")
    if len(finished) > 1:
        raise InputError(
            f"{path}: has the records of {len(finished)} runs; write one run with `sweep report RUN --json`"
        )
    return RecordSet(path.name, _by_variant(path, finished[0] if finished else rows))


def of_records(name: str, records: Iterable[Record]) -> RecordSet:
    """The records of a stored run."""
    return RecordSet(name, {record.variant: _shared(record.to_json()) for record in records})


def _by_variant(path: Path, rows: Any) -> dict[str, SharedRecord]:
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: has no records; give the output of {_SOURCES}")
    found: dict[str, SharedRecord] = {}
    for row in rows:
        try:
            one = _shared(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: is not the JSON of bitsweep; give the output of {_SOURCES}") from error
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
    divergence, perplexity, speed = row["divergence"] or {}, row["perplexity"] or {}, row["speed"] or {}
    text = row.get("text") or {}
    return SharedRecord(
        variant=_string(row["variant"]),
        file_bytes=None if row["file_bytes"] is None else int(row["file_bytes"]),
        kld=_number(divergence.get("kld_mean")),
        kld_stderr=_number(divergence.get("kld_stderr")),
        perplexity=_number(perplexity.get("value")),
        perplexity_stderr=_number(perplexity.get("stderr")),
        tokens_per_s=None if speed.get("unstable") else _number(speed.get("decode_tokens_per_s")),
        device=_string(row["device"]),
        reference=None if row["reference"] is None else _string(row["reference"]),
        text_name=text.get("name"),
        text_sha256=text.get("sha256"),
        window=text.get("window"),
        stride=text.get("stride"),
        windows_sha256=text.get("windows_sha256"),
        reference_model=text.get("reference_model"),
        tasks={
            _string(name): SharedTask(
                _string(score["metric"]), float(score["value"]), _number(score["stderr"]), int(score["n"])
            )
            for name, score in (row["tasks"] or {}).items()
            if score["value"] is not None
        },
    )


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _number(value: Any) -> float | None:
    """A finite number, or None. Raises TypeError or ValueError for anything else."""
    found = None if value is None else float(value)
    return found if found is not None and isfinite(found) else None


def compare_records(a: RecordSet, b: RecordSet, pairs: Sequence[tuple[str, str]]) -> RecordComparison:
    """B minus A for these pairs of variants. Raises InputError if text, windows or reference differ, or if the two have
    no figure in common."""
    _require_same_conditions(a, b, pairs)
    differences: list[SharedDifference] = []
    notes: dict[str, None] = {}
    for first, second in pairs:
        own, other = a.records[first], b.records[second]
        name = first if first == second else f"{first} and {second}"
        for figure, x, y, errors in (
            ("KL divergence", own.kld, other.kld, (own.kld_stderr, other.kld_stderr)),
            ("perplexity", own.perplexity, other.perplexity, (own.perplexity_stderr, other.perplexity_stderr)),
        ):
            differences += _difference(name, figure, x, y, errors)
        for task, score in own.tasks.items():
            against = other.tasks.get(task)
            if against is None:
                continue
            if (score.metric, score.n) != (against.metric, against.n):
                notes[
                    f"{task} is not compared: {score.n:,} items by {score.metric} in A, {against.n:,} by "
                    f"{against.metric} in B."
                ] = None
                continue
            differences += _difference(name, task, score.value, against.value, (score.stderr, against.stderr))
        speed = "decode t/s" if own.device == other.device else f"decode t/s ({own.device}, {other.device})"
        differences += _difference(name, speed, own.tokens_per_s, other.tokens_per_s, (None, None))
    if not differences:
        raise InputError(f"{a.name} and {b.name}: the compared variants have no figure in common")
    texts = [one for one in a.records.values() if one.text_sha256 is not None]
    return RecordComparison(
        a.name,
        b.name,
        None if not texts else f"{texts[0].text_name}, windows of {texts[0].window} tokens",
        next((one.reference for one in a.records.values() if one.reference is not None), "none"),
        tuple(differences),
        tuple(notes),
    )


def _difference(
    variant: str, figure: str, a: float | None, b: float | None, errors: tuple[float | None, float | None]
) -> list[SharedDifference]:
    if a is None or b is None:
        return []
    first, second = errors
    stderr = None if first is None or second is None else hypot(first, second)
    return [SharedDifference(variant, figure, a, b, b - a, stderr)]


def _require_same_conditions(a: RecordSet, b: RecordSet, pairs: Sequence[tuple[str, str]]) -> None:
    """Raises InputError if the text, its windows or the reference of a pair differ."""
    for first, second in pairs:
        own, other = a.records[first], b.records[second]
        if own.reference != other.reference:
            raise InputError(
                f"{a.name} and {b.name}: the references differ: {own.reference} and {other.reference}; their losses "
                "have no common zero"
            )
        if not (own.has_text and other.has_text):
            continue
        for side, one in ((a, own), (b, other)):
            if one.text_sha256 is None:
                raise InputError(
                    f"{side.name}: the records do not say which text they are from; write them again with {_SOURCES} "
                    "of this version"
                )
        if own.text_sha256 != other.text_sha256:
            raise InputError(
                f"{a.name} and {b.name}: the texts differ: {own.text_name} (hash {str(own.text_sha256)[:8]}) and "
                f"{other.text_name} (hash {str(other.text_sha256)[:8]})"
            )
        if (own.window, own.stride) != (other.window, other.stride):
            raise InputError(f"{a.name} and {b.name}: the windows differ: {_window(own)} and {_window(other)}")
        if own.windows_sha256 and other.windows_sha256 and own.windows_sha256 != other.windows_sha256:
            raise InputError(f"{a.name} and {b.name}: the texts were cut into other tokens: the vocabularies differ")
        if own.reference_model != other.reference_model:
            raise InputError(
                f"{a.name} and {b.name}: both references are called {own.reference}, but they are files of other "
                "models; their losses have no common zero"
            )


def _window(one: SharedRecord) -> str:
    return f"{one.window} tokens" + ("" if one.stride is None else f" with a stride of {one.stride}")
