"""What describes a family of models, and the reading of config values with their checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from converters.errors import InputError
from converters.llamacpp.container import Field

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Weight:
    """One tensor of the GGUF file: its name, its shape (numpy's order) by the config, and where it comes from.

    `always_f32`: llama.cpp wants it in float32 in every file. `optional`: the checkpoint may lack it.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    always_f32: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Architecture:
    """A family: `name` in GGUF, the transformers classes it is told by, and the two functions of a config.

    `fields` gives the metadata that belongs to the architecture, `weights` all tensors that the GGUF file may have;
    both raise InputError for a config that lacks a key, has a nonsensical one, or asks for what llama.cpp does not do.
    `ignored` are endings of tensor names in checkpoints that carry no weights.
    """

    name: str
    classes: tuple[str, ...]
    fields: Callable[[Config], dict[str, Field]]
    weights: Callable[[Config], tuple[Weight, ...]]
    ignored: tuple[str, ...] = ()


def integer(config: Config, key: str, default: int | None = None, low: int = 1, high: int = 2**31 - 1) -> int:
    """A whole number from a config. Raises InputError where it is missing, no number, or out of bounds."""
    value = config.get(key, default)
    if value is None:
        raise InputError(f"config.json: {key} is missing")
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"config.json: {key} is {value!r}; expected a whole number from {low} to {high}")
    return value


def real(config: Config, key: str, default: float | None = None) -> float:
    """A positive real number from a config. Raises InputError where it is missing or none."""
    value = config.get(key, default)
    if value is None:
        raise InputError(f"config.json: {key} is missing")
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise InputError(f"config.json: {key} is {value!r}; expected a positive number")
    return float(value)
