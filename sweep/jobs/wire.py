"""Jobs and results as JSON, for the pipe to a worker and for the store: the one place where they change form."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from sweep.jobs import registry
from sweep.jobs.base import Job, Result

T = TypeVar("T")


def plain(value: Any) -> Any:
    """A dataclass, or a tree of them, as JSON can hold it."""
    return msgspec.to_builtins(value, enc_hook=_number)


def typed(row: Any, form: type[T]) -> T:
    """What `plain` was made of. Fields that `form` does not have are passed over. Raises ValueError."""
    return msgspec.convert(row, form)


def job_row(job: Job[Any]) -> dict[str, Any]:
    """A job with its kind."""
    return {"kind": job.kind, **plain(job)}


def job_of(row: dict[str, Any]) -> Job[Any]:
    """What `job_row` was made of. Raises ValueError, KeyError for a kind that is not known."""
    return typed({key: value for key, value in row.items() if key != "kind"}, registry.kind(row["kind"]))


def result_row(result: Result) -> dict[str, Any]:
    """As the store keeps it: items have rows of their own, and what is lacking is the outcome's error."""
    row: dict[str, Any] = plain(result)
    return {name: value for name, value in row.items() if name not in ("items", "lacking")}


def result_of(row: dict[str, Any], kind: str) -> Any:
    """A stored result of this kind of job. Raises ValueError, KeyError for a kind that is not known."""
    return typed(row, registry.kind(kind).found)


def _number(value: Any) -> Any:
    """numpy's numbers are numbers."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
