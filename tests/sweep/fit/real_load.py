"""Loads a model with llama.cpp and reads from its log the bytes that it allocated on each device."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from converters.llamacpp.bindings import lib, start_backend
from converters.llamacpp.load import LoadOptions
from converters.llamacpp.log import capture
from converters.llamacpp.model import ContextOptions
from converters.llamacpp.rpc import RemoteDevice

MIB = 1 << 20
ROUNDING = MIB // 100  # rounding of each figure in the log, in bytes
_LINE = re.compile(r"(\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")


def real_allocation(
    path: Path,
    load: LoadOptions,
    options: ContextOptions | Sequence[ContextOptions],
    devices: Sequence[RemoteDevice] = (),
) -> Counter[tuple[str, str]]:
    """Bytes by device ("CPU" for RAM) and kind of buffer. The weights are read and the buffers are allocated.

    With several options the model has several contexts at the same time.
    """
    start_backend()
    params = lib.llama_model_default_params()
    params.load_mode = lib.llama_load_mode_from_str(b"none")
    kept = load.apply(params, [device.handle for device in devices])
    with capture() as log:
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
        del kept
        wanted = [options] if isinstance(options, ContextOptions) else options
        contexts = [lib.llama_init_from_model(model, one.params()) for one in wanted]
        assert all(contexts), log.errors
        for context in contexts:
            lib.llama_free(context)
        lib.llama_model_free(model)
    found: Counter[tuple[str, str]] = Counter()
    for place, kind, size in _LINE.findall(log.text):
        found["CPU" if place.startswith("CPU") else place, kind] += round(float(size) * MIB)
    return found
