"""What a context takes on each device, asked of llama.cpp once for each kind of placement.

Compute buffers do not depend on the quant, nor on how many layers a device has beyond a few, so that one load answers
for many placements. Between two contexts they grow at most linearly: llama.cpp takes the largest of several graphs,
each of which is linear in the context, so a straight line between two answers is never below the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from converters.llamacpp.load import LoadOptions
from converters.llamacpp.memory import ContextMemory, context_memory
from converters.llamacpp.model import ContextOptions
from converters.llamacpp.rpc import RemoteDevice
from sweep.fit.layers import Shape
from sweep.fit.placement import Placement
from sweep.fit.report import FitOptions

MAX_SEQUENCES = 256  # llama.cpp's own bound
CELLS = 256  # llama.cpp's steps of a sequence's context
STATE_LIMIT = 1 << 30  # bytes
FEW_LAYERS = 3  # more than so many on a device change no compute buffer


@dataclass
class Contexts:
    """Contexts of the model of a ghost file. Without `devices` all is in RAM, whatever a placement says.

    `state_bytes` is the recurrent state of one sequence, which llama.cpp allocates even where it is told not to: so
    that it stays below STATE_LIMIT, contexts of many sequences are asked for with fewer, and sizes multiplied.
    """

    ghost: Path
    shape: Shape
    options: FitOptions
    name: str
    devices: Sequence[RemoteDevice] = ()
    state_bytes: int = 0
    _known: dict[tuple[object, int], ContextMemory] = field(default_factory=dict)

    def compute(self, placement: Placement, context: int) -> tuple[int, ...]:
        """Bytes of compute buffers for each device in order, and for RAM, in a context of so many tokens a sequence.

        Between contexts that were asked for it is the straight line. Without RPC every device is taken to need as much
        as a whole model in RAM.
        """
        asked = self._compute(placement, self.options.context)
        if padded(context) == padded(self.options.context):
            return asked
        # Below a micro-batch buffers shrink by another rule, so that is as low as is asked.
        least = min(padded(self.options.ubatch), padded(self.options.context))
        end = self.shape.train_context if context > self.options.context else least
        other = self._compute(placement, end)
        span = padded(end) - padded(self.options.context)
        share = min(1.0, (padded(context) - padded(self.options.context)) / span) if span else 0.0
        return tuple(math.ceil(one + share * (two - one)) for one, two in zip(asked, other, strict=True))

    def _compute(self, placement: Placement, context: int) -> tuple[int, ...]:
        told = self.memory(placement, context).compute_bytes
        if self.devices or not placement.layers:
            return told
        return (*(told[-1] if layers else 0 for layers in placement.layers), told[-1])

    def memory(self, placement: Placement, context: int) -> ContextMemory:
        """llama.cpp's answer for a placement of this kind."""
        kind = self._kind(placement), padded(context)
        if kind not in self._known:
            load = LoadOptions()
            if self.devices:
                split = tuple(map(float, placement.layers))
                load = LoadOptions(placement.on_devices, tensor_split=split, elsewhere=placement.elsewhere())
            sequences = self.sequences
            asked = context_options(self.options, context, sequences)
            (told,) = context_memory(self.ghost, [asked], load, self.devices, self.name)
            self._known[kind] = _multiplied(told, self.options.parallel, sequences)
        return self._known[kind]

    @property
    def sequences(self) -> int:
        """How many sequences llama.cpp is asked for."""
        return min(
            self.options.parallel, max(1, STATE_LIMIT // self.state_bytes if self.state_bytes else MAX_SEQUENCES)
        )

    def _kind(self, placement: Placement) -> object:
        """Equal for placements that take the same compute buffers."""
        if not self.devices:
            return None
        devices = [
            (min(layers, FEW_LAYERS), min(layers - partial, 1), min(partial, 1))
            for layers, partial in zip(placement.layers, placement.partial, strict=True)
        ]
        return tuple(devices), min(placement.in_ram, FEW_LAYERS)


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
