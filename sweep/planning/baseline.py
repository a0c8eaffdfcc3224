"""The reference that variants are compared with: one of the variants, or a file with a model's log-probabilities."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp.reader import read_header
from sweep.artefact import sampled_digest
from sweep.defaults import MARGIN_BYTES
from sweep.devices import ALL_LAYERS, MachineMemory
from sweep.methods.registry import parse

AUTO = "auto"
FLOAT, NEAREST = "BF16", "Q8_0"  # `--reference auto` chooses one: the model itself, or the quant that is nearest to it


@dataclass(frozen=True)
class ReferenceFile:
    """A reference file of bitsweep or a base file of llama.cpp.

    Its text was cut into windows of `n_ctx` tokens; positions from `first` on are scored. `model` is the name of the
    model file that it was made from; None if it is unknown.
    """

    path: Path
    n_ctx: int
    first: int
    model: str | None = None

    @property
    def name(self) -> str:
        """The reference's name in records. No variant has a name of this form."""
        return f"file:{self.path.name}"

    @property
    def identity(self) -> str:
        return sampled_digest(self.path)

    def window(self, option: int | None) -> int:
        """The length of the windows, in tokens. Raises InputError if --window (`option`) differs."""
        if option is not None and option != self.n_ctx:
            raise InputError(
                f"{self.path}: its windows have {self.n_ctx} tokens, but --window is {option}; leave --window out"
            )
        return self.n_ctx

    def stride(self, option: int | None) -> int | None:
        """The stride of the windows, in tokens. Raises InputError if --stride (`option`) differs."""
        scored = self.n_ctx - 1 - self.first
        if option is not None and option != scored:
            raise InputError(
                f"{self.path}: the last {scored} tokens of each window are scored, but --stride is {option}; "
                "leave --stride out"
            )
        return option if self.first == self.n_ctx // 2 else scored


def writable_base_file(file: Path) -> Path:
    """The resolved path of --write-base. Raises InputError if another kind of file exists there, which would be
    lost."""
    from sweep.measure.basefile import is_base_file  # loads scipy

    path = file.expanduser().resolve()
    if path.exists() and not is_base_file(path):
        raise InputError(
            f"{file}: this file exists and is not a base file of llama.cpp; --write-base does not overwrite it"
        )
    return path


def find_reference(text: str) -> ReferenceFile | str:
    """The file of log-probabilities that --reference names, or the name of the variant: `text` itself, or that of the
    GGUF file at this path. Raises InputError if it is neither."""
    from sweep.measure.reference import open_reference  # loads scipy

    path = Path(text).expanduser()
    try:
        parse(text)
    except InputError as error:
        if text.startswith(("gguf:", "hub:")) or (not path.exists() and os.sep not in text):
            raise
        if not path.is_file():
            raise InputError(f"{text}: there is no such reference; give auto, a variant or a reference file") from error
    else:
        return text
    if path.suffix == ".gguf":
        read_header(path)  # a damaged file is an error before any work
        return f"gguf:{text}"
    opened = open_reference(path.resolve())
    return ReferenceFile(path.resolve(), opened.n_ctx, opened.first, opened.model)


def auto_reference(float_bytes: int, memory: MachineMemory) -> str:
    """BF16 if its `float_bytes` fit into the device's or the machine's memory, otherwise Q8_0."""
    return FLOAT if float_bytes <= max(memory.device_bytes - MARGIN_BYTES, memory.machine_bytes) else NEAREST


def gpu_layers(needed_bytes: int, layers: int, memory: MachineMemory) -> int:
    """The number of a model's `layers` on the GPU: all if the model fits, otherwise a share of them by size.

    The output is one more layer; the embeddings stay in RAM.
    """
    if not memory.device_bytes:
        return 0
    free = memory.device_bytes - MARGIN_BYTES
    return ALL_LAYERS if needed_bytes <= free else max(0, free * (layers + 1) // needed_bytes)
