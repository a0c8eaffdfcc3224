"""The cache of a causal language model of transformers: keys and values in cells that sequences share, and states.

An attention layer keeps one key and one value a cell, as a paged cache does (Kwon et al., arXiv 2309.06180, with pages
of one token); which cells a sequence has stands in a table that all layers share. Copying a sequence then copies no
key. A DeltaNet layer keeps the state of each sequence (convolution and recurrent) as it is after its last token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, LinearAttentionLayer

from converters.errors import InputError

Ints = NDArray[np.int64]


class Codec(Protocol):
    """How keys or values are held: as tensors of any widths, each (..., n_heads, tokens, width)."""

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]: ...

    def decode(self, *parts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor: ...


class AsTheyAre:
    """The codec of a cache in the model's own dtype."""

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x,)

    def decode(self, *parts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return parts[0]


Codecs = Mapping[int, tuple[Codec, Codec]]
"""Of keys and values, by layer; where there are none, they are held as they are."""


@dataclass(frozen=True)
class CacheShape:
    """What one token leaves in each layer, learned from a model by giving it one: (key, value), each
    (1, n_heads, 1, width), or (convolution state, recurrent state), each (1, ...). Bytes are of all layers together,
    as their codecs hold them.
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    is_state: tuple[bool, ...]
    codecs: tuple[tuple[Codec, Codec], ...]

    @classmethod
    @torch.inference_mode()
    def of(cls, model: PreTrainedModel, codecs: Codecs = MappingProxyType({})) -> CacheShape:
        """Raises InputError for layers of another kind, such as a sliding window's."""
        cache = DynamicCache(config=model.config)
        model.base_model(
            input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True
        )
        layers = []
        for layer in cache.layers:
            if type(layer) is DynamicLayer:
                layers.append((layer.keys, layer.values))
            elif type(layer) is LinearAttentionLayer and layer.number_of_states == 1:
                layers.append((layer.conv_states[0], layer.recurrent_states[0]))
            else:
                raise InputError(f"{model.config.model_type}: no cache is known for its {type(layer).__name__}")
        is_state = tuple(isinstance(layer, LinearAttentionLayer) for layer in cache.layers)
        plain = (AsTheyAre(), AsTheyAre())
        return cls(tuple(layers), is_state, tuple(codecs.get(index, plain) for index in range(len(layers))))

    @property
    def copies_states(self) -> bool:
        return any(self.is_state)

    @property
    def cell_bytes(self) -> int:
        """Of one token of a sequence."""
        return sum(
            part.nbytes
            for pair, codecs, is_state in zip(self.layers, self.codecs, self.is_state, strict=True)
            if not is_state
            for tensor, codec in zip(pair, codecs, strict=True)
            for part in codec.encode(tensor)
        )

    @property
    def state_bytes(self) -> int:
        """Of one sequence, whatever its length."""
        held = zip(self.layers, self.is_state, strict=True)
        return sum(tensor.nbytes for pair, is_state in held if is_state for tensor in pair)


class CellTable:
    """Which of `cells` cells each of `sequences` sequences of at most `longest` tokens has, by position."""

    def __init__(self, cells: int, sequences: int, longest: int) -> None:
        self._cells = np.zeros((sequences, longest), np.int64)
        self.lengths = np.zeros(sequences, np.int64)
        self._n_cells = cells
        self.used = 0  # every cell that a sequence has is below this one

    def of(self, sequence: int) -> Ints:
        """The cell of each position of the sequence."""
        return self._cells[sequence, : self.lengths[sequence]]

    def copy(self, source: int, target: int, length: int | None) -> None:
        n = self.lengths[source] if length is None else length
        self._cells[target, :n] = self._cells[source, :n]
        self.lengths[target] = n

    def cut(self, sequence: int, length: int) -> None:
        self.lengths[sequence] = min(self.lengths[sequence], length)

    def clear(self) -> None:
        self.lengths[:] = 0

    def take(self, positions: Ints, sequences: NDArray[np.integer], counts: NDArray[np.integer]) -> Ints:
        """A free cell for each of n tokens at `positions` (n,): token i is the next of counts[i] of `sequences`."""
        occupied = np.zeros(self._n_cells, dtype=bool)
        held = self._cells[:, : int(self.lengths.max())]
        occupied[held[np.arange(held.shape[1]) < self.lengths[:, None]]] = True
        free = np.flatnonzero(~occupied)[: len(positions)]
        if len(free) < len(positions):
            raise ValueError(f"{len(positions)} tokens, and {len(free)} of {self._n_cells} cells are free")
        places = np.repeat(positions, counts)
        self._cells[sequences, places] = np.repeat(free, counts)
        np.maximum.at(self.lengths, sequences, places + 1)
        last = np.flatnonzero(occupied)
        self.used = max(int(free[-1]), int(last[-1]) if len(last) else 0) + 1
        return free


@dataclass
class Access:
    """Where the attention layers of a forward pass write what is new, and what they read.

    `write` (n,) are the cells of the n tokens among the pass's (rows, columns) that are `real`, row by row. `read`
    (rows, length) are the cells of each row, whose surplus the mask hides; None: one row that sees the first `used`.
    """

    write: torch.Tensor
    real: torch.Tensor
    read: torch.Tensor | None
    used: int


class _Held:
    """Keys or values of one attention layer in cells, each part that their codec makes (1, n_heads, cells, width)."""

    def __init__(self, one: torch.Tensor, cells: int, codec: Codec) -> None:
        self._codec = codec
        self._parts = [x.new_zeros((1, x.shape[1], cells, x.shape[3])) for x in codec.encode(one)]

    def updated(self, new: torch.Tensor, access: Access) -> torch.Tensor:
        """What attention reads, after `new` (rows, n_heads, columns, width) is written."""
        encoded = zip(self._parts, self._codec.encode(new), strict=True)
        return self._codec.decode(*(_written(held, part, access) for held, part in encoded), dtype=new.dtype)


def _written(held: torch.Tensor, new: torch.Tensor, access: Access) -> torch.Tensor:
    if access.read is None:
        held.index_copy_(2, access.write, new)
        return held[:, :, : access.used]
    held[0][:, access.write] = new.transpose(0, 1)[:, access.real]
    rows, length = access.read.shape
    return held[0].index_select(1, access.read.ravel()).unflatten(1, (rows, length)).transpose(0, 1)


class CellLayer(CacheLayerMixin):
    """Keys and values of one attention layer, in `cells` cells."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, cells: int, codecs: tuple[Codec, Codec]) -> None:
        super().__init__()
        self._cells = cells
        self._held = [_Held(one, cells, codec) for one, codec in zip((keys, values), codecs, strict=True)]
        self.is_initialized = True
        self.access: Access | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.access is not None
        keys, values = self._held
        return keys.updated(key_states, self.access), values.updated(value_states, self.access)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the cells are there from the beginning."""

    def get_seq_length(self) -> int:
        return 0 if self.access is None else self.access.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_max_length(self) -> int:
        return self._cells


class StateLayer:
    """States of one DeltaNet layer, (sequences, ...) each. `batch` is what a forward pass works on."""

    def __init__(self, convolution: torch.Tensor, recurrent: torch.Tensor, sequences: int) -> None:
        self._held = [x.new_zeros((sequences, *x.shape[1:])) for x in (convolution, recurrent)]
        self.batch = LinearAttentionLayer()

    def load(self, sequences: torch.Tensor) -> None:
        """The states of `sequences` (rows,) for the next pass."""
        batch = self.batch
        batch.conv_states[0], batch.recurrent_states[0] = (held[sequences] for held in self._held)
        batch.conv_kernel_size[0] = batch.conv_states[0].shape[-1]
        batch.dtype, batch.device = batch.conv_states[0].dtype, batch.conv_states[0].device
        for known in (
            batch.is_conv_states_initialized,
            batch.is_recurrent_states_initialized,
            batch.has_previous_state,
        ):
            known[0] = True

    def store(self, sequences: torch.Tensor) -> None:
        """What the last pass made of the states of `sequences` (rows,)."""
        for held, new in zip(self._held, (self.batch.conv_states[0], self.batch.recurrent_states[0]), strict=True):
            held[sequences] = new

    def copy(self, source: int, target: int) -> None:
        for held in self._held:
            held[target] = held[source]

    def clear(self, sequences: Sequence[int] | slice) -> None:
        for held in self._held:
            held[sequences] = 0


class SharedCache:
    """All layers of a model. `cache` is what its forward pass is given."""

    def __init__(self, shape: CacheShape, cells: int, sequences: int) -> None:
        self.cells: list[CellLayer] = []
        self.states: list[StateLayer] = []
        layers: list[Any] = []
        for (one, other), is_state, codecs in zip(shape.layers, shape.is_state, shape.codecs, strict=True):
            if is_state:
                self.states.append(StateLayer(one, other, sequences))
                layers.append(self.states[-1].batch)
            else:
                self.cells.append(CellLayer(one, other, cells, codecs))
                layers.append(self.cells[-1])
        self.cache = Cache(layers=layers)

    def point(self, access: Access) -> None:
        """What the attention layers of the next pass write and read."""
        for layer in self.cells:
            layer.access = access
