"""How much memory llama.cpp would take for a model and a context: its own answer, got without allocating.

The model is loaded from a ghost file with `no_alloc`, a context is made, and both tell their sizes in the log (to
0.01 MiB). What a driver or a process takes beside that is not in it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp.bindings import lib, start_backend
from converters.llamacpp.container import Field, TensorInfo
from converters.llamacpp.ghost import ghost
from converters.llamacpp.load import ALL_IN_RAM, LoadOptions
from converters.llamacpp.log import capture
from converters.llamacpp.model import ContextOptions

MIB = 1 << 20

# Part of the plan <- the log lines that add up to it. Under no_alloc "KV buffer size" is 0: the cache has its own.
_LINES = {
    "kv_bytes": re.compile(r"^llama_kv_cache\w*: size = +([\d.]+) MiB", re.M),
    "recurrent_bytes": re.compile(r"^llama_memory_recurrent: size = +([\d.]+) MiB", re.M),
    "compute_bytes": re.compile(r" compute buffer size = +([\d.]+) MiB"),
    "output_bytes": re.compile(r" output buffer size = +([\d.]+) MiB"),
}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a model and one context take. `weights_bytes` is exact, the others are multiples of 0.01 MiB."""

    weights_bytes: int
    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.recurrent_bytes + self.compute_bytes + self.output_bytes


def plan_memory(
    metadata: Mapping[str, Field],
    tensors: Sequence[TensorInfo],
    options: ContextOptions,
    load: LoadOptions = ALL_IN_RAM,
    name: str | Path = "the model",
) -> MemoryPlan:
    """Memory for a model of this metadata and these tensors in a context of these options. Reads no weights.

    Raises InputError, which begins with `name`, where llama.cpp refuses the model or the context.
    """
    start_backend()
    context_params = options.params()
    with ghost(metadata, tensors) as path, capture() as log:
        params = lib.llama_model_default_params()
        params.no_alloc = True
        params.load_mode = lib.llama_load_mode_from_str(b"none")  # with mmap, no_alloc aborts the process
        kept = load.apply(params)
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
        del kept
        if not model:
            raise InputError(f"{name}: llama.cpp cannot load such a model: {log.errors or 'no reason given'}")
        try:
            context = lib.llama_init_from_model(model, context_params)
            if not context:
                raise InputError(
                    f"{name}: llama.cpp cannot make a context of {options}: {log.errors or 'no reason given'}"
                )
            lib.llama_free(context)
        finally:
            lib.llama_model_free(model)
    sizes = {part: round(sum(map(float, line.findall(log.text))) * MIB) for part, line in _LINES.items()}
    return MemoryPlan(weights_bytes=sum(tensor.nbytes for tensor in tensors), **sizes)
