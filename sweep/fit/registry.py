"""Every kind of variant whose fit can be told, by the prefix of its names. A kind is added by its line here, or by
`register`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweep.extensions import load_extensions
from sweep.fit.fit_report import FitRow
from sweep.fit.subject import FitSubject
from sweep.lazy import import_object


@dataclass(frozen=True)
class FitKind:
    """Variants whose names have one prefix.

    `known` gives a name as it is written, and raises InputError for one that stands for nothing. `offered` are those of
    a model that are told where none is asked for. `rows` are those of some names, by name.
    """

    known: Callable[[str], str]
    offered: Callable[[FitSubject], Sequence[str]]
    rows: Callable[[Sequence[str], FitSubject], dict[str, FitRow]]


# In the order in which they are offered
_KINDS: dict[str, str | FitKind] = {
    "gguf": "sweep.fit.gguf_files:FILES",
    "hub": "sweep.fit.gguf_files:HUB_FILES",
    "": "sweep.fit.gguf_files:QUANTS",
    "int8": "sweep.fit.torch_memory:INT8",
}


def register(prefix: str, kind: FitKind) -> None:
    """Add the kind of variants that are called PREFIX:SPEC."""
    _KINDS[prefix] = kind


def fit_kind(name: str) -> FitKind:
    """Of the variant of this name; what has no known prefix is taken for a quant."""
    load_extensions()
    prefix, colon, _ = name.partition(":")
    known = _KINDS.get(prefix if colon else "", _KINDS[""])
    found: FitKind = import_object(known) if isinstance(known, str) else known
    return found


def offered(subject: FitSubject) -> list[str]:
    """What is told of a model where no variant is asked for."""
    load_extensions()
    return [name for prefix in _KINDS for name in fit_kind(f"{prefix}:" if prefix else "").offered(subject)]
