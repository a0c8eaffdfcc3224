"""What a context takes on each device, asked of llama.cpp once for all on the devices, and once for a part in RAM.

Compute buffers do not depend on the quant, and hardly on how many layers a device has, so that one load answers for
all placements of its kind. Between two contexts that were asked for the straight line is a guess, near enough to look
for a context but not to promise it: how well llama.cpp packs its buffers changes from one to the next.
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

MAX_SEQUENCES = 256  # llama.cpp's own bound
STATE_LIMIT = 1 << 30  # bytes
PIPELINE = 4  # GGML_SCHED_MAX_COPIES


@dataclass
class Contexts:
    """Contexts of the model of a ghost file on so many devices; without `devices` all is in RAM.

    `state_bytes` is the recurrent state of one sequence, which llama.cpp allocates even where it is told not to: so
    that it stays below STATE_LIMIT, contexts of many sequences are asked for with fewer, and sizes multiplied.
    `embedding` is the length of a hidden state. To be used as a context manager: models stay loaded.
    """

    ghost: Path
    shape: ModelShape
    options: FitOptions
    name: str
    devices: Sequence[RemoteDevice] = ()
    state_bytes: int = 0
    embedding: int = 0
    _known: dict[tuple[bool, int], ContextMemory] = field(default_factory=dict)
    _models: dict[bool, object] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)
    _lock: RLock = field(default_factory=RLock)

    def __enter__(self) -> Contexts:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def prepare(self) -> ContextMemory:
        """Ask for what nearly every answer needs. Returns that for the context asked for, as much as can be on devices.

        Threads that ask for another meanwhile wait.
        """
        told = self.memory(True, self.options.context)
        if self.devices and self.options.offload == "auto":
            self.memory(False, self.options.context)
        self.memory(True, self.shape.train_context)
        return told

    def compute(self, placement: LayerPlacement, context: int) -> tuple[int, ...]:
        """Bytes of compute buffers for each device in order, and for RAM, in a context of so many tokens a sequence.

        Between contexts that were asked for it is the straight line. Without RPC every device is taken to need as much
        as a whole model in RAM.
        """
        full = self._is_full(placement)
        cells = padded(context)
        below, above = self._neighbours(full, cells)
        low, high = self.memory(full, below).compute_bytes, self.memory(full, above).compute_bytes
        share = (cells - below) / (above - below) if above > below else 0.0
        buffers = [math.ceil(one + share * (two - one)) for one, two in zip(low, high, strict=True)]
        devices = buffers[:-1] if self.devices else self._estimated(placement, context, buffers[-1])
        used = [size if layers else 0 for size, layers in zip(devices, placement.layers, strict=True)]
        return (*used, buffers[-1])

    def is_known(self, placement: LayerPlacement, context: int) -> bool:
        """Whether buffers for this context are llama.cpp's answer, and no straight line."""
        return self._key(self._is_full(placement), context) in self._known

    def ask(self, placement: LayerPlacement, context: int) -> None:
        """Have llama.cpp's answer for this context from now on."""
        self.memory(self._is_full(placement), context)

    def _is_full(self, placement: LayerPlacement) -> bool:
        return placement.is_full and not any(placement.partial)

    def _neighbours(self, full: bool, cells: int) -> tuple[int, int]:
        """The nearest contexts that llama.cpp has been asked for, or shall be, that have `cells` between them."""
        known = {context for kind, context in self._known if kind == self._key(full, 0)[0]}
        # Below a micro-batch buffers shrink by another rule, so that is as low as is asked.
        least = min(padded(self.options.ubatch), padded(self.options.context))
        asked = known | {padded(self.options.context)}
        below = max((context for context in asked if context <= cells), default=least)
        above = min((context for context in asked if context >= cells), default=padded(self.shape.train_context))
        return (below, above) if below <= cells else (above, above)

    def _key(self, full: bool, context: int) -> tuple[bool, int]:
        return full or not self.devices, padded(context)

    def _estimated(self, placement: LayerPlacement, context: int, whole: int) -> list[int]:
        """Buffers of devices that could not be asked for, where a model in RAM needs `whole`.

        Beside that each has copies of what comes from elsewhere, a mask and hidden states: of one batch, or of four
        where several devices hold all and work on as many at a time.
        """
        copies = PIPELINE if len(placement.layers) > 1 and placement.is_full else 1
        moved = 4 * self.options.ubatch * (padded(context) + 2 * self.embedding)
        return [whole + copies * moved] * len(placement.layers)

    def memory(self, full: bool, context: int) -> ContextMemory:
        """llama.cpp's answer with everything on the devices, or with layers left in RAM and, of others, the experts."""
        key = self._key(full, context)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._ask(*key)
            return self._known[key]

    def _ask(self, full: bool, context: int) -> ContextMemory:
        if full not in self._models:
            load = LoadOptions()
            if self.devices:
                placement = self._example(full)
                split = tuple(map(float, placement.layers))
                load = LoadOptions(placement.on_devices, tensor_split=split, tensor_overrides=placement.elsewhere())
            self._models[full] = self._open.enter_context(loaded_ghost(self.ghost, load, self.devices, self.name))
        sequences = self.sequences
        asked = context_options(self.options, context, sequences)
        told = context_memory(self._models[full], asked, self.devices, self.name)
        return _multiplied(told, self.options.parallel, sequences)

    def _example(self, full: bool) -> LayerPlacement:
        """A placement like all that are full, or like all that are not."""
        total, devices = self.shape.layers + 1, len(self.devices)
        if full:
            return LayerPlacement.whole(total, proportional(total, [1.0] * devices))
        layers = proportional(max(total - total // 4, 1), [1.0] * devices)
        placement = LayerPlacement.whole(total, layers)
        return replace(placement, partial=tuple(count // 2 for count in layers)) if self.shape.experts else placement

    @property
    def sequences(self) -> int:
        """How many sequences llama.cpp is asked for."""
        return min(
            self.options.parallel, max(1, STATE_LIMIT // self.state_bytes if self.state_bytes else MAX_SEQUENCES)
        )


def _multiplied(told: ContextMemory, parallel: int, sequences: int) -> ContextMemory:
    """For more sequences than were asked for."""

    def all_of(size: int) -> int:
        return -(-size * parallel // sequences)

    return replace(
        told,
        kv_bytes=all_of(told.kv_bytes),
        recurrent_bytes=all_of(told.recurrent_bytes),
        output_bytes=all_of(told.output_bytes),
    )


def context_options(options: FitOptions, context: int, sequences: int) -> ContextOptions:
    """A context of so many tokens for each of so many sequences, as llama.cpp is asked for it."""
    flash = {None: "auto", True: "on", False: "off"}[options.flash_attention]
    return ContextOptions(
        n_ctx=padded(context) * sequences,
        n_batch=options.batch,
        n_ubatch=options.ubatch,
        n_seq_max=sequences,
        type_k=options.kv_type_k,
        type_v=options.kv_type_v,
        flash_attn=flash,
    )
