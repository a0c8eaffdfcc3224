"""The names of variants: METHOD:SPEC, where METHOD can be several steps joined by +; a quant's name has no method."""

from __future__ import annotations

WITHOUT_SPEC = ("billm",)
"""Methods whose names may stand alone, without a colon."""


def prefix_of(name: str) -> str:
    """The method that a variant's name begins with, its first step: "gptq" for gptq:w4g128, "" for Q4_K_M."""
    method, colon, _ = name.partition(":")
    first = method.partition("+")[0]
    return first if colon or first in WITHOUT_SPEC else ""
