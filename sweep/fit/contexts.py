"""The memory of a context on each device, which llama.cpp computes by loads without allocation.

Compute buffers do not depend on the quant, and hardly on the number of layers on a device. Two loads therefore suffice
for all placements: one with all layers on the devices, and one with a part in RAM. Between two contexts that llama.cpp
has computed, buffers are interpolated linearly. That is close enough to search for the largest context, but not exact:
how well llama.cpp packs its buffers changes from one context to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock

from converters.llamacpp.load import LoadOptions
from converters.llamacpp.memory import ContextMemory, context_memory, loaded_ghost
from converters.llamacpp.model import ContextOptions
from converters.llamacpp.rpc import RemoteDevice
from sweep.fit.fit_report import FitOptions
from sweep.fit.formulas import padded
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.placement import LayerPlacement, proportional

MAX_SEQUENCES = 256  # llama.cpp's limit
STATE_LIMIT = 1 << 30  # bytes of recurrent states that a load may allocate
PIPELINE_COPIES = 4  # llama.cpp's GGML_SCHED_MAX_COPIES


@dataclass(frozen=True)
class ContextRole:
    """The role of a context in speculative decoding.

    Attributes:
        loads_mtp: whether the model is loaded with its layers for multi-token prediction.
        runs_mtp: whether the context runs these layers instead of the others.
        drafts: whether the context drafts tokens, so that it has one output per sequence.
        copies: additional copies of recurrent states, to go back to when a drafted token is rejected.
    """

    loads_mtp: bool = False
    runs_mtp: bool = False
    drafts: bool = False
    copies: int = 0


ALONE = ContextRole()
"""No speculative decoding."""


@dataclass
class Contexts:
    """Contexts of the model in a ghost file on `devices`; without devices, all of the model is in RAM.

    Use it as a context manager: models stay loaded until its end.

    Attributes:
        ghost: a GGUF file with metadata and tensor shapes but without weights.
        shape: the layers and tensors of the model.
        options: how the model will run.
        name: the model's name in error messages.
        devices: RPC devices that simulate the GPUs.
        state_bytes: recurrent state of one sequence. llama.cpp allocates it even in a load without allocation. To stay
            below STATE_LIMIT, contexts with many sequences are loaded with fewer, and the sizes are multiplied.
        embedding: length of a hidden state.
        role: the role of the contexts in speculative decoding.
    """

    ghost: Path
    shape: ModelShape
    options: FitOptions
    name: str
    devices: Sequence[RemoteDevice] = ()
    state_bytes: int = 0
    embedding: int = 0
    role: ContextRole = ALONE
    _known: dict[tuple[bool, int], ContextMemory] = field(default_factory=dict)
    _models: dict[bool, object] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)
    _lock: RLock = field(default_factory=RLock)

    def __enter__(self) -> Contexts:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def prepare(self) -> ContextMemory:
        """Let llama.cpp compute the contexts that nearly every variant needs.

        Returns the memory of the requested context with all layers on the devices. Other threads wait meanwhile.
        """
        requested = self.memory(True, self.options.context)
        if self.devices and self.options.offload == "auto":
            self.memory(False, self.options.context)
            self.memory(False, self.shape.train_context)
        self.memory(True, self.shape.train_context)
        return requested

    def compute_buffers(self, placement: LayerPlacement, context: int) -> tuple[int, ...]:
        """Bytes of the compute buffers on each device, in order, and in RAM, with `context` tokens per sequence.

        Interpolated linearly between contexts that llama.cpp has computed. Without RPC, every device is estimated to
        need as much as a model that is entirely in RAM.
        """
        full = self.is_full(placement)
        cells = padded(context)
        below, above = self._neighbours(full, cells)
        low, high = self.memory(full, below).compute_bytes, self.memory(full, above).compute_bytes
        share = (cells - below) / (above - below) if above > below else 0.0
        buffers = [math.ceil(one + share * (two - one)) for one, two in zip(low, high, strict=True)]
        devices = buffers[:-1] if self.devices else self._estimated(placement, context, buffers[-1])
        used = [size if layers else 0 for size, layers in zip(devices, placement.layers, strict=True)]
        return (*used, buffers[-1])

    def is_exact(self, placement: LayerPlacement, context: int) -> bool:
        """Whether llama.cpp has computed the buffers of this context; otherwise they are interpolated."""
        return self._key(self.is_full(placement), context) in self._known

    def compute_exactly(self, placement: LayerPlacement, context: int) -> None:
        """Let llama.cpp compute this context, so that its buffers are no longer interpolated."""
        self.memory(self.is_full(placement), context)

    def is_full(self, placement: LayerPlacement) -> bool:
        """Whether all of the model is on devices, and no layer is divided."""
        return placement.is_full and not any(placement.partial)

    def _neighbours(self, full: bool, cells: int) -> tuple[int, int]:
        """The nearest contexts below and above `cells` between which the buffers are interpolated."""
        known = {context for kind, context in self._known if kind == self._key(full, 0)[0]}
        # With contexts shorter than a micro-batch buffers shrink in another way, so none of them is computed.
        least = min(padded(self.options.ubatch), padded(self.options.context))
        computed = known | {padded(self.options.context)}
        below = max((context for context in computed if context <= cells), default=least)
        above = min((context for context in computed if context >= cells), default=padded(self.shape.train_context))
        return (below, above) if below <= cells else (above, above)

    def _key(self, full: bool, context: int) -> tuple[bool, int]:
        return full or not self.devices, padded(context)

    def _estimated(self, placement: LayerPlacement, context: int, whole: int) -> list[int]:
        """Estimated compute buffers of devices if llama.cpp has no RPC; `whole` are those of a model in RAM.

        In addition each device has copies of its inputs, a mask and hidden states: for one micro-batch, or for four if
        several devices hold the whole model, because llama.cpp then works on four at a time (pipeline parallelism).
        """
        copies = PIPELINE_COPIES if len(placement.layers) > 1 and placement.is_full else 1
        moved = 4 * self.options.ubatch * (padded(context) + 2 * self.embedding)
        return [whole + copies * moved] * len(placement.layers)

    def memory(self, full: bool, context: int) -> ContextMemory:
        """llama.cpp's figures for `context` tokens per sequence.

        `full`: everything is on the devices. Otherwise some layers are in RAM, and so are the experts of some others.
        """
        key = self._key(full, context)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._load(*key)
            return self._known[key]

    def _load(self, full: bool, context: int) -> ContextMemory:
        if full not in self._models:
            load = LoadOptions(mtp=self.role.loads_mtp)
            if self.devices:
                placement = self.example(full)
                split = tuple(map(float, placement.layers))
                load = replace(
                    load,
                    gpu_layers=placement.on_devices,
                    tensor_split=split,
                    tensor_overrides=placement.tensor_overrides(),
                )
            self._models[full] = self._open.enter_context(loaded_ghost(self.ghost, load, self.devices, self.name))
        sequences = self.sequences
        options = context_options(self.options, context, sequences, self.role)
        found = context_memory(self._models[full], options, self.devices, self.name)
        return _multiplied(found, self.options.parallel, sequences)

    def example(self, full: bool) -> LayerPlacement:
        """A placement that represents all full placements, or all others."""
        total, devices = self.shape.layers + 1, len(self.devices)
        if full:
            return LayerPlacement.whole(total, proportional(total, [1.0] * devices))
        layers = proportional(max(total - total // 4, 1), [1.0] * devices)
        placement = LayerPlacement.whole(total, layers)
        return replace(placement, partial=tuple(count // 2 for count in layers)) if self.shape.experts else placement

    @property
    def sequences(self) -> int:
        """The number of sequences that llama.cpp's loads have."""
        return min(
            self.options.parallel, max(1, STATE_LIMIT // self.state_bytes if self.state_bytes else MAX_SEQUENCES)
        )


def _multiplied(loaded: ContextMemory, parallel: int, sequences: int) -> ContextMemory:
    """The memory of `parallel` sequences from that of a load with fewer `sequences`."""

    def scaled(size: int) -> int:
        return -(-size * parallel // sequences)

    return replace(
        loaded,
        kv_bytes=scaled(loaded.kv_bytes),
        recurrent_bytes=scaled(loaded.recurrent_bytes),
        output_bytes=scaled(loaded.output_bytes),
    )


def context_options(options: FitOptions, context: int, sequences: int, role: ContextRole = ALONE) -> ContextOptions:
    """llama.cpp's options of a context with `context` tokens for each of `sequences` sequences."""
    flash = {None: "auto", True: "on", False: "off"}[options.flash_attention]
    return ContextOptions(
        n_ctx=padded(context) * sequences,
        n_batch=options.batch,
        n_ubatch=options.ubatch,
        n_seq_max=sequences,
        type_k=options.kv_type_k,
        type_v=options.kv_type_v,
        flash_attn=flash,
        n_rs_seq=role.copies,
        n_outputs_max=sequences if role.drafts else 0,
        mtp=role.runs_mtp,
    )
