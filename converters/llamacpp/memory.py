"""The memory that llama.cpp would take for a model and a context, computed by llama.cpp without allocating it.

A ghost file is loaded with `no_alloc`, a context is made, and llama.cpp logs their sizes (to 0.01 MiB). Memory that a
driver or a process takes in addition is not included.
"""

import ctypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp.bindings import lib, start_backend
from converters.llamacpp.container import Field, TensorInfo
from converters.llamacpp.ghost import ghost
from converters.llamacpp.load import ALL_IN_RAM, LoadOptions
from converters.llamacpp.load_failure import load_failure
from converters.llamacpp.log import capture
from converters.llamacpp.model import ContextOptions
from converters.llamacpp.reader import read_header
from converters.llamacpp.rpc import RemoteDevice

MIB = 1 << 20

# Field of MemoryPlan <- the log lines whose sum it is. "KV buffer size" is 0 with no_alloc, so the cache's line is
# used.
_LINES = {
    "kv_bytes": re.compile(r"^llama_kv_cache\w*: size = +([\d.]+) MiB", re.M),
    "recurrent_bytes": re.compile(r"^llama_memory_recurrent: size = +([\d.]+) MiB", re.M),
    "compute_bytes": re.compile(r"^\w+: +\S+ compute buffer size = +([\d.]+) MiB", re.M),
    "output_bytes": re.compile(r"^\w+: +\S+ +output buffer size = +([\d.]+) MiB", re.M),
}
_COMPUTE_LINE = re.compile(r"^\w+: +(\S+) compute buffer size = +([\d.]+) MiB", re.M)
_LAYER_LINES = {
    "attention_layers": re.compile(r"^llama_kv_cache\w*: layer +(\d+): dev = ", re.M),
    "recurrent_layers": re.compile(r"^llama_memory_recurrent, layer +(\d+): dev = ", re.M),
}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a model and one context. `weights_bytes` is exact; the others are multiples of 0.01 MiB."""

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
    """The memory of the model with this metadata and these tensors, and of a context with `options`. Reads no weights.

    Raises InputError, which begins with `name`, if llama.cpp rejects the model or the context.
    """
    with ghost(metadata, tensors) as path, loaded_ghost(path, load, (), name) as model:
        sizes = _sizes(_context_log(model, options, name))
    return MemoryPlan(weights_bytes=sum(tensor.nbytes for tensor in tensors), **sizes)


@dataclass(frozen=True)
class ContextMemory:
    """Bytes that a context takes in addition to the weights (multiples of 0.01 MiB), and the layers with each cache.

    `compute_bytes` has one entry per device in order, and a last one for RAM; `output_bytes` is always in RAM.
    """

    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: tuple[int, ...]
    output_bytes: int
    attention_layers: frozenset[int]
    recurrent_layers: frozenset[int]


def context_memory(
    model: object, options: ContextOptions, devices: Sequence[RemoteDevice] = (), name: str | Path = "the model"
) -> ContextMemory:
    """The memory of a context of a `loaded_ghost` on these devices. Raises InputError if llama.cpp rejects it."""
    return _parse_memory(_context_log(model, options, name), devices)


@contextmanager
def loaded_ghost(
    path: Path,
    load: LoadOptions = ALL_IN_RAM,
    devices: Sequence[RemoteDevice] = (),
    name: str | Path = "the model",
) -> Iterator[object]:
    """Load a ghost file without allocating memory, as `load` says, on exactly these devices; yields the model.

    Raises InputError, which begins with `name`, if llama.cpp rejects the model.
    """
    with _loaded_unallocated([path], load, devices, name) as model:
        yield model


def require_loadable(parts: Sequence[Path], name: str | Path) -> None:
    """Let llama.cpp load a GGUF file, or all `parts` of a split one in order, without allocating memory.

    It reads metadata, vocabulary, and the names, shapes and types of the tensors, but no weights. Most of the time, up
    to a second, is for the vocabulary. Raises InputError, which begins with `name`, if it rejects the model. It aborts
    the process for some files of other programs, so a worker checks those.
    """
    with _loaded_unallocated(parts, ALL_IN_RAM, (), name):
        pass


@contextmanager
def _loaded_unallocated(
    parts: Sequence[Path], load: LoadOptions, devices: Sequence[RemoteDevice], name: str | Path
) -> Iterator[object]:
    start_backend()
    params = lib.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = lib.llama_load_mode_from_str(b"none")  # with mmap, no_alloc aborts the process
    kept = load.apply(params, [device.handle for device in devices])
    with capture() as log:
        if len(parts) == 1:
            model = lib.llama_model_load_from_file(os.fsencode(parts[0]), params)
        else:  # by their paths, because their names do not say yet that they are parts
            paths = (ctypes.c_char_p * len(parts))(*map(os.fsencode, parts))
            model = lib.llama_model_load_from_splits(paths, len(parts), params)
    del kept
    if not model:
        names = [tensor.name for part in parts for tensor in read_header(part).tensors]
        raise InputError(f"{name}: llama.cpp cannot load this model: {load_failure(log, names)}")
    try:
        yield model
    finally:
        lib.llama_model_free(model)


def _context_log(model: object, options: ContextOptions, name: str | Path) -> str:
    with capture() as log:
        context = lib.llama_init_from_model(model, options.params())
        if not context:
            raise InputError(f"{name}: llama.cpp cannot make a context of {options}: {log.errors or 'no reason given'}")
        lib.llama_free(context)
    return log.text


def _sizes(log: str) -> dict[str, int]:
    return {part: round(sum(map(float, line.findall(log))) * MIB) for part, line in _LINES.items()}


def _parse_memory(log: str, devices: Sequence[RemoteDevice]) -> ContextMemory:
    sizes = _sizes(log)
    places = {device.buffer: place for place, device in enumerate(devices)}
    compute = [0] * (len(devices) + 1)
    for buffer, size in _COMPUTE_LINE.findall(log):
        compute[places.get(buffer, -1)] += round(float(size) * MIB)
    return ContextMemory(
        kv_bytes=sizes["kv_bytes"],
        recurrent_bytes=sizes["recurrent_bytes"],
        compute_bytes=tuple(compute),
        output_bytes=sizes["output_bytes"],
        **{kind: frozenset(map(int, line.findall(log))) for kind, line in _LAYER_LINES.items()},
    )
