"""Converts jobs and results to JSON values and back, for the pipe to a worker and for the store."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from sweep.jobs import registry
from sweep.jobs.base import Job, Result

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Convert a dataclass, with everything in it, to values that JSON can hold."""
    return msgspec.to_builtins(value, enc_hook=_number_to_json)


def from_json(row: Any, cls: type[T]) -> T:
    """Convert what `to_json` returned back to `cls`. Fields that `cls` does not have are ignored. Raises ValueError."""
    return msgspec.convert(row, cls)


def job_to_json(job: Job[Any]) -> dict[str, Any]:
    """A job's fields and its kind."""
    return {"kind": job.kind, **to_json(job)}


def job_from_json(row: dict[str, Any]) -> Job[Any]:
    """Convert what `job_to_json` returned back to a job. Raises ValueError, or KeyError for an unknown kind."""
    return from_json({key: value for key, value in row.items() if key != "kind"}, registry.job_class(row["kind"]))


def result_to_json(result: Result) -> dict[str, Any]:
    """A result as the store keeps it: items and questions have rows of their own, and `incomplete_reason` is the
    outcome's error."""
    row: dict[str, Any] = to_json(result)
    return {name: value for name, value in row.items() if name not in ("items", "questions", "incomplete_reason")}


def result_from_json(row: dict[str, Any], kind: str) -> Any:
    """Convert a stored result of a job of this kind. Raises ValueError, or KeyError for an unknown kind."""
    return from_json(row, registry.job_class(kind).result_type)


def _number_to_json(value: Any) -> Any:
    """Convert numpy's numbers."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
