"""Adds up the memory of one variant for a placement: the bytes on each device and in RAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from converters.llamacpp.memory import ContextMemory
from sweep.fit.contexts import Contexts
from sweep.fit.formulas import ContextFormulas, exact, padded
from sweep.fit.layer_bytes import Bytes, ModelShape, Weights
from sweep.fit.placement import LayerPlacement


@dataclass(frozen=True)
class MemoryParts:
    """Bytes of each part, int64 (number of devices + 1,): the devices in order, then RAM."""

    weights: Bytes
    kv: Bytes
    recurrent: Bytes
    compute: Bytes
    output: Bytes

    @property
    def total(self) -> Bytes:
        return self.weights + self.kv + self.recurrent + self.compute + self.output

    def __add__(self, other: MemoryParts) -> MemoryParts:
        return MemoryParts(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    def __sub__(self, other: MemoryParts) -> MemoryParts:
        return MemoryParts(*(getattr(self, part.name) - getattr(other, part.name) for part in fields(self)))


class Draft(Protocol):
    """The draft of speculative decoding with one variant."""

    @property
    def name(self) -> str: ...

    @property
    def arguments(self) -> str:
        """For llama-server."""
        ...

    @property
    def shared_weights(self) -> int:
        """Bytes of its weights that are a part of the model, and are not in `parts`."""
        ...

    def parts(self, placement: LayerPlacement, context: int) -> MemoryParts:
        """Bytes on each device and in RAM if the model has this placement, with `context` tokens per sequence."""
        ...

    def is_exact(self, placement: LayerPlacement, context: int) -> bool: ...

    def compute_exactly(self, placement: LayerPlacement, context: int) -> None: ...


@dataclass(frozen=True)
class VariantMemory:
    """The memory of one variant, for any placement and context.

    Attributes:
        shape: the layers and tensors of the model.
        weights: bytes of the variant's tensors.
        contexts: compute buffers, computed by llama.cpp.
        formulas: sizes of the KV cache and of recurrent states.
        context_memory: llama.cpp's figures for the requested context.
        copies_weights: whether the first device computes long batches with weights that stay in RAM, and needs memory
            for a copy of one matrix at a time. GPU backends do this; RPC devices, which simulate them, do not.
        projector: bytes of the vision projector; they count as weights of the first device, or of RAM if there is none.
        draft: the draft of speculative decoding; None without it.
    """

    shape: ModelShape
    weights: Weights
    contexts: Contexts
    formulas: ContextFormulas
    context_memory: ContextMemory
    copies_weights: bool
    projector: int = 0
    draft: Draft | None = None

    @cached_property
    def _attention(self) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(self.shape.layers + 1), list(self.context_memory.attention_layers))

    @cached_property
    def _recurrent(self) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(self.shape.layers + 1), list(self.context_memory.recurrent_layers))

    @cached_property
    def cell_bytes(self) -> float:
        """Bytes of the KV cache per token and attention layer."""
        options = self.contexts.options
        cells = padded(options.context) * options.parallel * max(int(self._attention.sum()), 1)
        computed = self.formulas.cell_bytes(options.kv_type_k, options.kv_type_v)
        return exact(self.context_memory.kv_bytes, computed * cells) / cells

    @cached_property
    def state_bytes(self) -> float:
        """Bytes of the recurrent state of all sequences per linear layer."""
        layers = max(int(self._recurrent.sum()), 1)
        computed = self.formulas.state_bytes * self.contexts.options.parallel * layers * self.state_copies
        return exact(self.context_memory.recurrent_bytes, computed) / layers if self._recurrent.any() else 0.0

    @cached_property
    def state_copies(self) -> int:
        """How many copies of each state llama.cpp keeps. Not every architecture can go back in its states."""
        one = self.formulas.state_bytes * self.contexts.options.parallel * max(int(self._recurrent.sum()), 1)
        wanted = 1 + self.contexts.role.copies
        return wanted if self.context_memory.recurrent_bytes > one * (1 + wanted) / 2 else 1

    def parts(self, placement: LayerPlacement, context: int) -> MemoryParts:
        """Bytes on each device and in RAM with `context` tokens per sequence, including the draft."""
        own = self._own_parts(placement, context)
        return own if self.draft is None else own + self.draft.parts(placement, context)

    def is_exact(self, placement: LayerPlacement, context: int) -> bool:
        """Whether llama.cpp has computed the buffers of this context; otherwise they are interpolated."""
        own = self.contexts.is_exact(placement, context)
        return own and (self.draft is None or self.draft.is_exact(placement, context))

    def compute_exactly(self, placement: LayerPlacement, context: int) -> None:
        """Let llama.cpp compute this context."""
        self.contexts.compute_exactly(placement, context)
        if self.draft is not None:
            self.draft.compute_exactly(placement, context)

    def _own_parts(self, placement: LayerPlacement, context: int) -> MemoryParts:
        places = len(placement.layers) + 1
        owner = owners(placement)
        weights = np.bincount(owner, self.weights.layers, places)
        for layer, part, device in placement.split_layers():
            moved = self.weights.parts[part][layer]
            weights[owner[layer]] -= moved
            weights[-1 if device is None else device] += moved
        weights[-1] += self.weights.embedding
        if self.shape.tied and owner[-1] == places - 1:
            weights[-1] -= self.weights.embedding  # in RAM the output is the embedding itself
        cells = padded(context) * self.contexts.options.parallel
        weights[0] += self.projector
        compute = np.array(self.contexts.compute_buffers(placement, context), np.float64)
        if self.copies_weights and len(placement.layers):
            compute[0] += self.copied_bytes(placement)
        output = np.zeros(places)
        output[-1] = self.context_memory.output_bytes
        return MemoryParts(
            whole(weights),
            whole(np.bincount(owner[self._attention], minlength=places) * self.cell_bytes * cells),
            whole(np.bincount(owner[self._recurrent], minlength=places) * self.state_bytes),
            whole(compute),
            whole(output),
        )

    def copied_bytes(self, placement: LayerPlacement) -> int:
        """Bytes of the largest matrix in RAM that a device would copy."""
        layers = [*range(placement.in_ram), *(layer for layer, _, device in placement.split_layers() if device is None)]
        return int(self.weights.largest[layers].max()) if layers else 0

    def bytes_read_per_token(self, placement: LayerPlacement) -> npt.NDArray[np.float64]:
        """Bytes that are read to generate one token of one sequence with a full context, on each device and in RAM.

        Only the experts that are used count. The state of linear layers counts twice: it is read and written.
        """
        options = self.contexts.options
        places = len(placement.layers) + 1
        owner = owners(placement)
        read = np.bincount(owner, self.weights.active, places).astype(np.float64)
        used = self.shape.experts_used / self.shape.experts if self.shape.experts else 1.0
        for layer, part, device in placement.split_layers():
            moved = self.weights.parts[part][layer] * used
            read[owner[layer]] -= moved
            read[-1 if device is None else device] += moved
        read += np.bincount(owner[self._attention], minlength=places) * self.cell_bytes * options.context
        read += np.bincount(owner[self._recurrent], minlength=places) * self.state_bytes / options.parallel * 2
        return read


def owners(placement: LayerPlacement) -> npt.NDArray[np.intp]:
    """The index of each layer's device, or the number of devices for RAM; the output is the last layer."""
    owner = np.full(placement.total, len(placement.layers), np.intp)
    for device in range(len(placement.layers)):
        span = placement.span(device)
        owner[span.start : span.stop] = device
    return owner


def bytes_per_device(parts: MemoryParts, shared: Sequence[bool]) -> list[int]:
    """Bytes used of each device's memory; `shared` devices, whose memory is RAM, also hold what is in RAM."""
    totals = parts.total
    return [int(total + (totals[-1] if share else 0)) for total, share in zip(totals[:-1], shared, strict=True)]


def whole(values: npt.NDArray[Any]) -> Bytes:
    """Rounded up to whole bytes."""
    return np.ceil(values).astype(np.int64)
