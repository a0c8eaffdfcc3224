"""Contexts beyond the one that a model states, by YaRN. The data and their sources are in long_context.toml."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "long_context.toml"


@dataclass(frozen=True)
class Yarn:
    """A stretched rotary embedding: `factor` times the context `original`, in tokens."""

    factor: int
    original: int


@dataclass(frozen=True)
class LongContext:
    """The models that it holds for, the context that YaRN stretches, and the longest one; see long_context.toml."""

    architecture: str
    context: int
    original: int
    longest: int
    width: int = 0

    def yarn(self, context: int) -> Yarn:
        """The smallest whole factor that suffices for `context` tokens: a larger one costs accuracy."""
        return Yarn(math.ceil(min(context, self.longest) / self.original), self.original)


@cache
def _known() -> tuple[LongContext, ...]:
    with open(_FILE, "rb") as file:
        return tuple(LongContext(**entry) for entry in tomllib.load(file)["models"])


def long_context(architecture: str, context: int, width: int) -> LongContext | None:
    """How models of this architecture (llama.cpp's name), stated context and width run longer texts; None: unknown."""
    alike = (one for one in _known() if (one.architecture, one.context) == (architecture, context))
    return next((one for one in alike if width >= one.width), None)
