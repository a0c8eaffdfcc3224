"""The names of variants: METHOD:SPEC, where METHOD can be several steps joined by +; a quant's name has no method.

The name of a GGUF variant can end with its projector file: Q4_K_M+mmproj=Q8_0.
"""

from __future__ import annotations

from converters.mixes import OWN_TYPE

WITHOUT_SPEC = ("billm",)
"""Methods whose names may stand alone, without a colon."""

MMPROJ = "+mmproj="


def split_projector(name: str) -> tuple[str, str | None]:
    """The name without the projector file, and the projector file's type or path; None if the name has none."""
    base, separator, projector = name.rpartition(MMPROJ)
    return (base, projector) if separator else (name, None)


def prefix_of(name: str) -> str:
    """The method that a variant's name begins with, its first step: "gptq" for gptq:w4g128, "" for Q4_K_M."""
    method, colon, _ = split_projector(name)[0].partition(":")
    if OWN_TYPE in method:  # a quant with rules, which are regular expressions
        return ""
    first = method.partition("+")[0]
    return first if colon or first in WITHOUT_SPEC else ""
