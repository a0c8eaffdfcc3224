"""One variant's memory added up for a placement: what each device holds, and RAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.llamacpp.memory import ContextMemory
from sweep.fit.contexts import Contexts
from sweep.fit.formulas import ContextFormulas, exact, padded
from sweep.fit.layer_bytes import Bytes, ModelShape, Weights
from sweep.fit.placement import LayerPlacement


@dataclass(frozen=True)
class Parts:
    """Bytes of each part by place: the devices in order, then RAM."""

    weights: Bytes
    kv: Bytes
    recurrent: Bytes
    compute: Bytes
    output: Bytes

    @property
    def total(self) -> Bytes:
        return self.weights + self.kv + self.recurrent + self.compute + self.output


@dataclass(frozen=True)
class Account:
    """What a variant's parts add up to. `told` is llama.cpp's answer for the context that is asked for.

    `copies`: whether devices compute long batches with weights that stay in RAM, for which they take a copy of one
    matrix at a time. Those of GPU backends do; RPC's, that stand for them, do not. `projector` counts among the weights
    of the first device, or of RAM where there is none.
    """

    shape: ModelShape
    weights: Weights
    contexts: Contexts
    formulas: ContextFormulas
    told: ContextMemory
    copies: bool
    projector: int = 0

    @cached_property
    def _attention(self) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(self.shape.layers + 1), list(self.told.attention_layers))

    @cached_property
    def _recurrent(self) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(self.shape.layers + 1), list(self.told.recurrent_layers))

    @cached_property
    def cell_bytes(self) -> float:
        """Bytes of the KV cache for one token in one attention layer."""
        options = self.contexts.options
        cells = padded(options.context) * options.parallel * max(int(self._attention.sum()), 1)
        computed = self.formulas.cell_bytes(options.kv_type_k, options.kv_type_v)
        return exact(self.told.kv_bytes, computed * cells) / cells

    @cached_property
    def state_bytes(self) -> float:
        """Bytes of the recurrent state of all sequences in one linear layer."""
        layers = max(int(self._recurrent.sum()), 1)
        computed = self.formulas.state_bytes * self.contexts.options.parallel * layers
        return exact(self.told.recurrent_bytes, computed) / layers if self._recurrent.any() else 0.0

    def parts(self, placement: LayerPlacement, context: int) -> Parts:
        """What each place holds in a context of so many tokens a sequence."""
        places = len(placement.layers) + 1
        owner = self._owners(placement)
        weights = np.bincount(owner, self.weights.layers, places)
        for layer, part, device in placement.parted():
            moved = self.weights.kept[part][layer]
            weights[owner[layer]] -= moved
            weights[-1 if device is None else device] += moved
        weights[-1] += self.weights.embedding
        if self.shape.tied and owner[-1] == places - 1:
            weights[-1] -= self.weights.embedding  # in RAM the output is the embedding itself
        cells = padded(context) * self.contexts.options.parallel
        weights[0] += self.projector
        compute = np.array(self.contexts.compute(placement, context), np.float64)
        if self.copies and len(placement.layers):
            compute[0] += self.copied_bytes(placement)
        output = np.zeros(places)
        output[-1] = self.told.output_bytes
        return Parts(
            _whole(weights),
            _whole(np.bincount(owner[self._attention], minlength=places) * self.cell_bytes * cells),
            _whole(np.bincount(owner[self._recurrent], minlength=places) * self.state_bytes),
            _whole(compute),
            _whole(output),
        )

    def copied_bytes(self, placement: LayerPlacement) -> int:
        """The largest matrix in RAM that a device would copy."""
        layers = [*range(placement.in_ram), *(layer for layer, _, device in placement.parted() if device is None)]
        return int(self.weights.largest[layers].max()) if layers else 0

    def read_per_token(self, placement: LayerPlacement) -> npt.NDArray[np.float64]:
        """Bytes that each place reads for one token of one sequence whose context is full.

        Of experts those that are used; the state of linear layers is read and written.
        """
        options = self.contexts.options
        places = len(placement.layers) + 1
        owner = self._owners(placement)
        read = np.bincount(owner, self.weights.active, places).astype(np.float64)
        used = self.shape.experts_used / self.shape.experts if self.shape.experts else 1.0
        for layer, part, device in placement.parted():
            moved = self.weights.kept[part][layer] * used
            read[owner[layer]] -= moved
            read[-1 if device is None else device] += moved
        read += np.bincount(owner[self._attention], minlength=places) * self.cell_bytes * options.context
        read += np.bincount(owner[self._recurrent], minlength=places) * self.state_bytes / options.parallel * 2
        return read

    def _owners(self, placement: LayerPlacement) -> npt.NDArray[np.intp]:
        """The place of each layer, the output last."""
        owner = np.full(self.shape.layers + 1, len(placement.layers), np.intp)
        for device in range(len(placement.layers)):
            span = placement.span(device)
            owner[span.start : span.stop] = device
        return owner


def used_by(parts: Parts, shared: Sequence[bool]) -> list[int]:
    """Bytes that each device loses: what it holds, and what RAM holds where the device's memory is RAM."""
    totals = parts.total
    return [int(total + (totals[-1] if share else 0)) for total, share in zip(totals[:-1], shared, strict=True)]


def _whole(values: npt.NDArray[Any]) -> Bytes:
    return np.ceil(values).astype(np.int64)
