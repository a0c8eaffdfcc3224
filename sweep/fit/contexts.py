"""What a context takes on each device, asked of llama.cpp once for all on the devices, and once for a part in RAM.

Compute buffers do not depend on the quant, and hardly on how many layers a device has, so that one load answers for
all placements of its kind. They are the largest of several graphs', each of which is linear in the context, so that a
straight line between the answers for two contexts is never below the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock

from converters.llamacpp.load import LoadOptions
from converters.llamacpp.memory import ContextMemory, context_memory
from converters.llamacpp.model import ContextOptions
from converters.llamacpp.rpc import RemoteDevice
from sweep.fit.layers import Shape
from sweep.fit.placement import Placement, proportional
from sweep.fit.report import FitOptions

MAX_SEQUENCES = 256  # llama.cpp's own bound
CELLS = 256  # llama.cpp's steps of a sequence's context
STATE_LIMIT = 1 << 30  # bytes


@dataclass
class Contexts:
    """Contexts of the model of a ghost file on so many devices; without `devices` all is in RAM.

    `state_bytes` is the recurrent state of one sequence, which llama.cpp allocates even where it is told not to: so
    that it stays below STATE_LIMIT, contexts of many sequences are asked for with fewer, and sizes multiplied.
    """

    ghost: Path
    shape: Shape
    options: FitOptions
    name: str
    devices: Sequence[RemoteDevice] = ()
    state_bytes: int = 0
    _known: dict[tuple[bool, int], ContextMemory] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)

    def compute(self, placement: Placement, context: int) -> tuple[int, ...]:
        """Bytes of compute buffers for each device in order, and for RAM, in a context of so many tokens a sequence.

        Between contexts that were asked for it is the straight line. Without RPC every device is taken to need as much
        as a whole model in RAM.
        """
        full = placement.is_full
        buffers: Sequence[int] = self.memory(full, self.options.context).compute_bytes
        if padded(context) != padded(self.options.context):
            # Below a micro-batch buffers shrink by another rule, so that is as low as is asked.
            least = min(padded(self.options.ubatch), padded(self.options.context))
            end = self.shape.train_context if context > self.options.context else least
            other = self.memory(full, end).compute_bytes
            span = padded(end) - padded(self.options.context)
            share = min(1.0, (padded(context) - padded(self.options.context)) / span) if span else 0.0
            buffers = [math.ceil(one + share * (two - one)) for one, two in zip(buffers, other, strict=True)]
        devices = buffers[:-1] if self.devices else [buffers[-1]] * len(placement.layers)
        used = [size if layers else 0 for size, layers in zip(devices, placement.layers, strict=True)]
        return (*used, buffers[-1])

    def memory(self, full: bool, context: int) -> ContextMemory:
        """llama.cpp's answer with everything on the devices, or with layers left in RAM and, of others, the experts."""
        key = full or not self.devices, padded(context)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._ask(*key)
            return self._known[key]

    def _ask(self, full: bool, context: int) -> ContextMemory:
        load = LoadOptions()
        if self.devices:
            placement = self._example(full)
            split = tuple(map(float, placement.layers))
            load = LoadOptions(placement.on_devices, tensor_split=split, elsewhere=placement.elsewhere())
        sequences = self.sequences
        asked = context_options(self.options, context, sequences)
        (told,) = context_memory(self.ghost, [asked], load, self.devices, self.name)
        return _multiplied(told, self.options.parallel, sequences)

    def _example(self, full: bool) -> Placement:
        """A placement like all that are full, or like all that are not."""
        total, devices = self.shape.layers + 1, len(self.devices)
        if full:
            return Placement.whole(total, proportional(total, [1.0] * devices))
        layers = proportional(max(total - total // 4, 1), [1.0] * devices)
        placement = Placement.whole(total, layers)
        return replace(placement, partial=tuple(count // 2 for count in layers)) if self.shape.experts else placement

    @property
    def sequences(self) -> int:
        """How many sequences llama.cpp is asked for."""
        return min(
            self.options.parallel, max(1, STATE_LIMIT // self.state_bytes if self.state_bytes else MAX_SEQUENCES)
        )


def padded(context: int) -> int:
    """Cells of a sequence's cache for so many tokens."""
    return -(-context // CELLS) * CELLS


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
