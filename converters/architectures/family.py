"""The description of a family of models: its metadata, its tensors, and the checkpoint rows that make each tensor."""

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
Stored = Mapping[str, tuple[int, ...]]  # canonical name of a tensor in the checkpoint -> shape
Rows = npt.NDArray[np.generic]

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS: llama.cpp aborts the process on more
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS: likewise
MAX_EXPERTS_IN_ALL = 1 << 17  # over all layers; each is a `Part`, and Qwen3.5-397B has 30,720
MAX_HEADS, MAX_HEAD_DIM = 256, 1 << 16  # of linear attention; each head is a `Part`. Qwen3.5-397B has 64 heads of 128


@dataclass(frozen=True)
class Part:
    """Rows of a tensor in a checkpoint. `shape` is the required shape of the tensor; all axes but the last are rows.

    A vector is one row. With `columns` the part is a transposed block: its rows are those columns of the source's rows
    `start` to `stop`.
    """

    source: str
    shape: tuple[int, ...]
    start: int
    stop: int
    columns: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        """Number of rows that the part gives."""
        return self.stop - self.start if self.columns is None else self.columns[1] - self.columns[0]


@dataclass(frozen=True)
class Tiling:
    """A reordering of heads along an axis from grouped (all heads of group 0, then of group 1, ...) to tiled.

    Tiled means head 0 of all groups, then head 1 of all groups, and so on.
    """

    groups: int
    per_group: int
    size: int  # elements per head

    def heads(self) -> list[int]:
        """The old numbers of the heads, in their new order."""
        return [group * self.per_group + head for head in range(self.per_group) for group in range(self.groups)]

    def columns(self, rows: Rows) -> Rows:
        """`rows` [n, groups x per_group x size] with the heads of each row in their new order."""
        cut = rows.reshape(len(rows), self.groups, self.per_group, self.size)
        return np.ascontiguousarray(cut.swapaxes(1, 2)).reshape(rows.shape)


@dataclass(frozen=True)
class Weight:
    """One tensor of the GGUF file: its name, its shape according to the config (numpy's order), and its origin.

    Its rows are those of its `parts` in order; then `tiling` reorders columns and `value` changes values. An `optional`
    tensor may be missing in the checkpoint.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    tiling: Tiling | None = None
    value: Callable[[Rows], Rows] | None = None
    optional: bool = False

    def part_at(self, row: int) -> Part:
        """The part that gives row `row`."""
        ends = list(accumulate(part.rows for part in self.parts))
        return self.parts[bisect_right(ends, row)]

    @property
    def always_f32(self) -> bool:
        """Whether llama.cpp's converter always writes the tensor in float32: vectors, norms, routers, convolutions."""
        return is_always_f32(self.name, self.shape)


def is_always_f32(name: str, shape: tuple[int, ...]) -> bool:
    """Whether llama.cpp's converter always writes this tensor in float32, and its quantizer leaves it so."""
    return len(shape) == 1 or name.endswith(_ALWAYS_F32) or not name.endswith(".weight")


_ALWAYS_F32 = ("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "ssm_conv1d.weight")


@dataclass(frozen=True)
class Tower:
    """A kind of vision tower: the encoder of a multi-modal model and its projector, which GGUF has in a file of its
    own (mmproj).

    - `projector`: llama.cpp's name of it, the value of `clip.projector_type`.
    - `fields`: its metadata, for a `vision_config` and the width of the text model, without the normalization of
      pictures.
    - `weights`: all its tensors, named in the checkpoint from "visual." on, for the same.
    - `vision_config`: the config, as far as `fields` and `weights` need it, of a file with this header.
    - `mean`, `std`: the normalization of the red, green and blue of pictures, as published checkpoints have it.

    `fields` and `weights` raise InputError for a config that llama.cpp cannot run.
    """

    projector: str
    fields: Callable[[Config, int], dict[str, Field]]
    weights: Callable[[Config, int], tuple[Weight, ...]]
    vision_config: Callable[[GGUFHeader], dict[str, Any]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Architecture:
    """An architecture: its `name` in GGUF, its transformers classes, and functions that read a config.

    - `fields`: the metadata of the architecture, for a config and a number of multi-token prediction (MTP) layers.
    - `weights`: all tensors that the GGUF file may have. It also gets the names and shapes of the checkpoint's tensors,
      because some families are stored in several ways.
    - `mtp`: whether checkpoints may have MTP layers, whatever their config says.
    - `check_file`: gets the header of a GGUF file and the names of all its tensors, and raises InputError for what
      llama.cpp would abort the process for.
    - `tower`: the kind of vision tower that its multi-modal models have.

    `fields` and `weights` raise InputError for a config in which a key is missing or invalid, or that requires
    something that llama.cpp does not do.
    """

    name: str
    classes: tuple[str, ...]
    fields: Callable[[Config, int], dict[str, Field]]
    weights: Callable[[Config, int, Stored], tuple[Weight, ...]]
    mtp: bool = False
    check_file: Callable[[GGUFHeader, Collection[str]], None] = lambda _header, _names: None
    tower: Tower | None = None

    def general(self, name: str, fields: Mapping[str, Field]) -> dict[str, Field]:
        """All metadata of a model called `name`, except its vocabulary. `fields` is the result of `self.fields`."""
        return {
            "general.architecture": string(self.name),
            "general.type": string("model"),
            "general.name": string(name),
            **fields,
        }

    def vocabulary_size(self, config: Config) -> dict[str, Field]:
        """The size of the vocabulary, which replaces a vocabulary that is unknown or not needed."""
        return {f"{self.name}.vocab_size": uint32(integer(config, "vocab_size"))}


IGNORED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
"""Endings of the names of tensors in checkpoints that are not weights."""


def canonical_name(name: str) -> str | None:
    """A tensor's name without the prefixes of multi-modal classes; None for tensors of other modalities."""
    if "visual." in name or "audio_tower." in name:
        return None
    name = name.replace("language_model.", "", 1)
    name = name.replace("model.model.", "model.", 1).replace("model.mtp.", "mtp.", 1)
    return name.replace("model.lm_head.", "lm_head.", 1)


def tower_name(name: str) -> str | None:
    """A tensor's name from "visual." on, if it belongs to the vision tower; otherwise None."""
    name = name.removeprefix("model.")
    return name if name.startswith("visual.") else None


def is_mtp(name: str) -> bool:
    """Whether the tensor with this canonical name belongs to multi-token prediction."""
    return name.startswith("mtp.")


def mtp_layers(names: Iterable[str]) -> int:
    """The number of multi-token prediction layers in a checkpoint, by the names of its tensors, not by its config."""
    known = (canonical_name(name) or "" for name in names)
    numbers = [name.split(".")[2] for name in known if name.startswith("mtp.layers.")]
    return 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) <= 4), default=-1)


def integer(config: Config, key: str, default: int | None = None, low: int = 1, high: int = 2**31 - 1) -> int:
    """Read a whole number from a config. Raises InputError if it is missing, not a number, or out of bounds."""
    value = config.get(key, default)
    if value is None:
        raise InputError(f"config.json: {key} is missing")
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"config.json: {key} is {value!r}; expected a whole number from {low} to {high}")
    return value


def real(config: Config, key: str, default: float | None = None) -> float:
    """Read a positive number from a config. Raises InputError if it is missing or something else."""
    value = config.get(key, default)
    if value is None:
        raise InputError(f"config.json: {key} is missing")
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise InputError(f"config.json: {key} is {value!r}; expected a positive number")
    return float(value)


def require_value(config: Config, key: str, allowed: object, default: object) -> None:
    """Raise InputError if a setting that changes what the model computes has a value that llama.cpp cannot do."""
    value = config.get(key)
    value = default if value is None else value
    if value != allowed:
        raise InputError(f"config.json: {key} is {value!r}; llama.cpp supports only {allowed!r} for this model")


@contextmanager
def config_path_in_errors(file: Path) -> Iterator[None]:
    """Replace "config.json" at the start of error messages by the path of the config."""
    try:
        yield
    except InputError as error:
        reason = str(error)
        if not reason.startswith("config.json: "):
            raise
        raise InputError(f"{file}: {reason.removeprefix('config.json: ')}") from error


def all_rows(source: str, *shape: int) -> Part:
    """All rows of a tensor; for a vector that is one row."""
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return Part(source, shape, 0, rows)
