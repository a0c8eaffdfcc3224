"""The kinds of variants that a fit can be computed for, by the prefix of their names.

To add a kind, add a line to the table here or call `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ptq.recipe import PREFIXES as PTQ_PREFIXES
from sweep.extensions import load_extensions
from sweep.fit.fit_inputs import FitInputs
from sweep.fit.fit_report import FitRow
from sweep.lazy import import_object
from sweep.variant_name import prefix_of


@dataclass(frozen=True)
class FitKind:
    """The variants whose names have the same prefix.

    Attributes:
        canonical_name: gives a variant's name in its canonical spelling; raises InputError for an unknown variant.
        default_variants: gives the names of this kind that are reported if the user names no variant.
        rows: computes the rows of the given names, by name.
        is_file: whether the names are those of GGUF files that exist.
        has_draft: whether these variants can run with a draft (speculative decoding).
        runs_in_llama_cpp: whether these variants have a KV cache of llama.cpp, whose types their names can say, and
            read images with a projector file.
    """

    canonical_name: Callable[[str], str]
    default_variants: Callable[[FitInputs], Sequence[str]]
    rows: Callable[[Sequence[str], FitInputs], dict[str, FitRow]]
    is_file: bool = False
    has_draft: bool = False
    runs_in_llama_cpp: bool = False


# In the order in which a report lists them. The empty prefix is that of quants.
_KINDS: dict[str, str | FitKind] = {
    "gguf": "sweep.fit.gguf_files:FILES",
    "hub": "sweep.fit.gguf_files:HUB_FILES",
    "": "sweep.fit.gguf_files:QUANTS",
    "mix": "sweep.fit.gguf_files:QUANTS",
    "int8": "sweep.fit.torch_memory:INT8",
    **dict.fromkeys(PTQ_PREFIXES, "sweep.fit.ptq_memory:PTQ"),
}


def register(prefix: str, kind: FitKind) -> None:
    """Add a kind: variants with names of the form PREFIX:SPEC."""
    _KINDS[prefix] = kind


def fit_kind(name: str) -> FitKind:
    """The kind of the variant `name`; a name without a known prefix is treated as a quant."""
    load_extensions()
    known = _KINDS.get(prefix_of(name), _KINDS[""])
    found: FitKind = import_object(known) if isinstance(known, str) else known
    return found


def is_file(name: str) -> bool:
    """Whether the variant `name` is a GGUF file that exists, locally or on a hub."""
    return fit_kind(name).is_file


def default_variants(inputs: FitInputs) -> list[str]:
    """The variants of a model that are reported if the user names no variant."""
    load_extensions()
    kinds = dict.fromkeys(fit_kind(f"{prefix}:" if prefix else "") for prefix in _KINDS)
    return [name for kind in kinds for name in kind.default_variants(inputs)]
