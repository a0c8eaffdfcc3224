"""What describes a family of models: its metadata, its tensors, and where in a checkpoint their rows come from."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import InputError
from converters.llamacpp.container import Field, GGUFHeader, string, uint32

Config = Mapping[str, Any]
Stored = Mapping[str, tuple[int, ...]]  # canonical names of a checkpoint's tensors and their shapes
Rows = npt.NDArray[np.generic]

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS: more of them abort the process
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS: so do more of these
MAX_EXPERTS_IN_ALL = 1 << 17  # of all layers; each is a part of its own, and Qwen3.5-397B has 30,720
MAX_HEADS, MAX_HEAD_DIM = 256, 1 << 16  # of linear attention; Qwen3.5-397B has 64 of 128. Each is a part of its own


@dataclass(frozen=True)
class Part:
    """Rows of a checkpoint's tensor. `shape` is what the whole tensor must have; all its axes but the last are rows.

    A vector is one row. With `columns` the part is a block turned over: its rows are those columns of the source's
    rows `start` to `stop`.
    """

    source: str
    shape: tuple[int, ...]
    start: int
    stop: int
    columns: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        """Number of rows the part gives."""
        return self.stop - self.start if self.columns is None else self.columns[1] - self.columns[0]


@dataclass(frozen=True)
class Tiling:
    """A new order of heads along an axis: from grouped (all heads of the first group, then of the next) to tiled."""

    groups: int
    per_group: int
    size: int  # elements of a head

    def heads(self) -> list[int]:
        """The numbers that the heads had before, in their new order."""
        return [group * self.per_group + head for head in range(self.per_group) for group in range(self.groups)]

    def columns(self, rows: Rows) -> Rows:
        """`rows` [n, groups x per_group x size] with the heads of each row in the new order."""
        cut = rows.reshape(len(rows), self.groups, self.per_group, self.size)
        return np.ascontiguousarray(cut.swapaxes(1, 2)).reshape(rows.shape)


@dataclass(frozen=True)
class Weight:
    """One tensor of the GGUF file: its name, its shape (numpy's order) by the config, and where it comes from.

    Its rows are those of its `parts`, one after another; `tiling` then reorders columns and `value` changes values.
    `optional`: the checkpoint may lack it.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    tiling: Tiling | None = None
    value: Callable[[Rows], Rows] | None = None
    optional: bool = False

    def part_at(self, row: int) -> Part:
        """The part that gives a row."""
        ends = list(accumulate(part.rows for part in self.parts))
        return self.parts[bisect_right(ends, row)]

    @property
    def always_f32(self) -> bool:
        """Whether llama.cpp's converter writes it in float32 to every file: vectors, norms, routers, convolutions."""
        return len(self.shape) == 1 or self.name.endswith(_ALWAYS_F32) or not self.name.endswith(".weight")


_ALWAYS_F32 = ("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "ssm_conv1d.weight")


@dataclass(frozen=True)
class Architecture:
    """A family: `name` in GGUF, the transformers classes it is told by, and the functions of a config.

    `fields` gives the metadata that belongs to the architecture, `weights` all tensors that the GGUF file may have,
    for as many multi-token prediction (MTP) layers as asked; `weights` sees the checkpoint's tensors, because some
    families are stored in more ways than one. Both raise InputError for a config that lacks a key, has a nonsensical
    one, or asks for what llama.cpp does not do.

    `mtp`: whether checkpoints of the family may have MTP layers, whatever their config says. `check_file` is given the
    header of a GGUF file of the family and the names of all its tensors, and raises InputError for what llama.cpp
    would end the process for.
    """

    name: str
    classes: tuple[str, ...]
    fields: Callable[[Config, int], dict[str, Field]]
    weights: Callable[[Config, int, Stored], tuple[Weight, ...]]
    mtp: bool = False
    check_file: Callable[[GGUFHeader, Collection[str]], None] = lambda _header, _names: None

    def general(self, name: str, fields: Mapping[str, Field]) -> dict[str, Field]:
        """The metadata of a model called `name`, but for its vocabulary. `fields` are those of its config."""
        return {
            "general.architecture": string(self.name),
            "general.type": string("model"),
            "general.name": string(name),
            **fields,
        }

    def vocabulary_size(self, config: Config) -> dict[str, Field]:
        """What stands for a vocabulary that is not here, or not needed."""
        return {f"{self.name}.vocab_size": uint32(integer(config, "vocab_size"))}


IGNORED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
"""Endings of tensor names in checkpoints that carry no weights."""


def canonical(name: str) -> str | None:
    """A tensor's name in a checkpoint without the prefixes that multi-modal classes add; None for other modalities."""
    if "visual." in name or "audio_tower." in name:
        return None
    name = name.replace("language_model.", "", 1)
    name = name.replace("model.model.", "model.", 1).replace("model.mtp.", "mtp.", 1)
    return name.replace("model.lm_head.", "lm_head.", 1)


def is_mtp(name: str) -> bool:
    """Whether the tensor of this canonical name is part of multi-token prediction."""
    return name.startswith("mtp.")


def mtp_layers(names: Iterable[str]) -> int:
    """How many multi-token prediction layers a checkpoint has, by its tensors' names and not by its config."""
    known = (canonical(name) or "" for name in names)
    numbers = [name.split(".")[2] for name in known if name.startswith("mtp.layers.")]
    return 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) <= 4), default=-1)


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


def fixed(config: Config, key: str, allowed: object, default: object) -> None:
    """Raises InputError if a setting that changes what the model computes is none that llama.cpp can do."""
    value = config.get(key)
    value = default if value is None else value
    if value != allowed:
        raise InputError(f"config.json: {key} is {value!r}; llama.cpp can only do {allowed!r} for this model")


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Put the path of the config where messages of the block say config.json."""
    try:
        yield
    except InputError as error:
        reason = str(error)
        if not reason.startswith("config.json: "):
            raise
        raise InputError(f"{file}: {reason.removeprefix('config.json: ')}") from error


def whole(source: str, *shape: int) -> Part:
    """All rows of a tensor. For a vector that is one row."""
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return Part(source, shape, 0, rows)
