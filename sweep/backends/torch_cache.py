"""The KV cache of a causal language model of transformers, whose cells sequences share, and its recurrent states.

An attention layer stores one key and one value per cell, as a paged cache does (Kwon et al., arXiv 2309.06180, with
pages of one token). A table that all layers share lists the cells of each sequence, so copying a sequence copies no
keys. A DeltaNet layer stores the convolution state and the recurrent state of each sequence after its last token.
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
    """How keys or values are stored: as tensors (..., n_heads, tokens, width), each of any width and dtype."""

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]: ...

    def decode(self, *parts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor: ...


class PlainCodec:
    """The codec of a cache that stores keys or values unchanged, in the model's dtype."""

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x,)

    def decode(self, *parts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return parts[0]


Codecs = Mapping[int, tuple[Codec, Codec]]
"""The codecs of keys and values by layer; a layer that is not listed has PlainCodec."""


@dataclass(frozen=True)
class CacheShape:
    """What the model stores for one token in each layer, found by running the model with one token.

    A layer has (key, value), each (1, n_heads, 1, width), or (convolution state, recurrent state), each (1, ...).
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    is_state: tuple[bool, ...]
    codecs: tuple[tuple[Codec, Codec], ...]

    @classmethod
    @torch.inference_mode()
    def of(cls, model: PreTrainedModel, codecs: Codecs = MappingProxyType({})) -> CacheShape:
        """The shape of a model's cache. Raises InputError for other kinds of layers, such as a sliding window."""
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
                raise InputError(f"{model.config.model_type}: a cache with {type(layer).__name__} is not supported")
        is_state = tuple(isinstance(layer, LinearAttentionLayer) for layer in cache.layers)
        plain = (PlainCodec(), PlainCodec())
        return cls(tuple(layers), is_state, tuple(codecs.get(index, plain) for index in range(len(layers))))

    @property
    def copies_states(self) -> bool:
        return any(self.is_state)

    @property
    def cell_bytes(self) -> int:
        """Bytes of all layers per token, as their codecs store it."""
        return sum(
            part.nbytes
            for pair, codecs, is_state in zip(self.layers, self.codecs, self.is_state, strict=True)
            if not is_state
            for tensor, codec in zip(pair, codecs, strict=True)
            for part in codec.encode(tensor)
        )

    @property
    def state_bytes(self) -> int:
        """Bytes of all recurrent states per sequence, which do not depend on its length."""
        held = zip(self.layers, self.is_state, strict=True)
        return sum(tensor.nbytes for pair, is_state in held if is_state for tensor in pair)


class SequenceCells:
    """The cells of each sequence by position: up to `sequences` of at most `longest` tokens share `cells` cells."""

    def __init__(self, cells: int, sequences: int, longest: int) -> None:
        self._cells = np.zeros((sequences, longest), np.int64)
        self.lengths = np.zeros(sequences, np.int64)
        self._n_cells = cells
        self.used = 0  # every cell of a sequence is below this number

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
        """Assign a free cell to each of n tokens at `positions` (n,), and return the cells (n,).

        Token i belongs to counts[i] sequences, the next ones in `sequences` (sum of counts,). Raises ValueError if
        there are fewer than n free cells.
        """
        occupied = np.zeros(self._n_cells, dtype=bool)
        held = self._cells[:, : int(self.lengths.max())]
        occupied[held[np.arange(held.shape[1]) < self.lengths[:, None]]] = True
        free = np.flatnonzero(~occupied)[: len(positions)]
        if len(free) < len(positions):
            raise ValueError(f"{len(positions)} tokens need cells, but {len(free)} of {self._n_cells} are free")
        places = np.repeat(positions, counts)
        self._cells[sequences, places] = np.repeat(free, counts)
        np.maximum.at(self.lengths, sequences, places + 1)
        last = np.flatnonzero(occupied)
        self.used = max(int(free[-1]), int(last[-1]) if len(last) else 0) + 1
        return free


@dataclass
class Access:
    """The cells that the attention layers of a forward pass write and read.

    Attributes:
        write: the cells (n,) of the n tokens that are not padding, row by row.
        real: which tokens (rows, columns) of the pass are not padding.
        read: the cells (rows, length) that each row reads; the attention mask hides the unused ones. None: there is one
            row, which reads the first `used` cells.
        used: number of cells in use.
    """

    write: torch.Tensor
    real: torch.Tensor
    read: torch.Tensor | None
    used: int


class _CellTensors:
    """Keys or values of one attention layer by cell; each part of the codec has shape (1, n_heads, cells, width)."""

    def __init__(self, one: torch.Tensor, cells: int, codec: Codec) -> None:
        self._codec = codec
        self._parts = [x.new_zeros((1, x.shape[1], cells, x.shape[3])) for x in codec.encode(one)]

    def updated(self, new: torch.Tensor, access: Access) -> torch.Tensor:
        """Write `new` (rows, n_heads, columns, width), and return what attention reads."""
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
        self._held = [_CellTensors(one, cells, codec) for one, codec in zip((keys, values), codecs, strict=True)]
        self.is_initialized = True
        self.access: Access | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.access is not None
        keys, values = self._held
        return keys.updated(key_states, self.access), values.updated(value_states, self.access)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Does nothing: the cells are allocated at the beginning."""

    def get_seq_length(self) -> int:
        return 0 if self.access is None else self.access.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_max_length(self) -> int:
        return self._cells


class StateLayer:
    """The states of one DeltaNet layer, each (sequences, ...). A forward pass works on `batch`."""

    def __init__(self, convolution: torch.Tensor, recurrent: torch.Tensor, sequences: int) -> None:
        self._held = [x.new_zeros((sequences, *x.shape[1:])) for x in (convolution, recurrent)]
        self.batch = LinearAttentionLayer()

    def load(self, sequences: torch.Tensor) -> None:
        """Copy the states of `sequences` (rows,) to `batch` for the next pass."""
        batch = self.batch
        batch.conv_states[0], batch.recurrent_states[0] = (held[sequences] for held in self._held)
        batch.conv_kernel_size[0] = batch.conv_states[0].shape[-1]
        batch.dtype, batch.device = batch.conv_states[0].dtype, batch.conv_states[0].device
        for flags in (
            batch.is_conv_states_initialized,
            batch.is_recurrent_states_initialized,
            batch.has_previous_state,
        ):
            flags[0] = True

    def store(self, sequences: torch.Tensor) -> None:
        """Copy the states from `batch`, as the last pass left them, to `sequences` (rows,)."""
        for held, new in zip(self._held, (self.batch.conv_states[0], self.batch.recurrent_states[0]), strict=True):
            held[sequences] = new

    def copy(self, source: int, target: int) -> None:
        for held in self._held:
            held[target] = held[source]

    def clear(self, sequences: Sequence[int] | slice) -> None:
        for held in self._held:
            held[sequences] = 0


class SharedCache:
    """The cache of all layers of a model; its forward pass gets `cache`."""

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
        """Set which cells the attention layers of the next pass write and read."""
        for layer in self.cells:
            layer.access = access
