"""What the variants are compared with: one of them, or a file of a model's log-probabilities."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from sweep.artefact import sampled_digest
from sweep.defaults import MARGIN_BYTES
from sweep.devices import ALL_LAYERS, MachineMemory
from sweep.methods.registry import parse

AUTO = "auto"
FLOAT, NEAREST = "BF16", "Q8_0"  # what auto chooses between: the model itself, and what is hardly off it


@dataclass(frozen=True)
class ReferenceFile:
    """A reference file of ours or a base file of llama.cpp's, and how its text was cut: windows of `n_ctx` tokens with
    the scored positions from `first` on. `model` is the name of the file that it was made of, where it is known."""

    path: Path
    n_ctx: int
    first: int
    model: str | None = None

    @property
    def name(self) -> str:
        """For records; no variant is called so."""
        return f"file:{self.path.name}"

    @property
    def identity(self) -> str:
        return sampled_digest(self.path)

    def window(self, asked: int | None) -> int:
        """The windows' length. Raises InputError where another is asked for."""
        if asked is not None and asked != self.n_ctx:
            raise InputError(
                f"{self.path}: made of windows of {self.n_ctx} tokens, --window says {asked}; leave it out"
            )
        return self.n_ctx

    def stride(self, asked: int | None) -> int | None:
        """The windows' stride. Raises InputError where another is asked for."""
        scored = self.n_ctx - 1 - self.first
        if asked is not None and asked != scored:
            raise InputError(f"{self.path}: the last {scored} tokens of a window are scored, --stride says {asked}")
        return asked if self.first == self.n_ctx // 2 else scored


def writable_base_file(asked: Path) -> Path:
    """Where --write-base writes. Raises InputError for what is there and no base file: it would be lost."""
    from sweep.measure.basefile import is_base_file  # loads scipy

    path = asked.expanduser().resolve()
    if path.exists() and not is_base_file(path):
        raise InputError(f"{asked}: it is there and no base file of llama.cpp's; --write-base does not write over it")
    return path


def find_reference(asked: str) -> ReferenceFile | str:
    """The file that --reference names, or `asked` where that is a variant. Raises InputError where it is neither."""
    from sweep.measure.reference import open_reference  # loads scipy

    path = Path(asked).expanduser()
    try:
        parse(asked)
    except InputError as error:
        if asked.startswith(("gguf:", "hub:")) or (not path.exists() and os.sep not in asked):
            raise
        if not path.is_file():
            raise InputError(
                f"{asked}: there is no such reference; give auto, a variant or a reference file"
            ) from error
    else:
        return asked
    if path.suffix == ".gguf":
        raise InputError(f"{asked}: a model, not its log-probabilities; give --reference gguf:{asked}")
    opened = open_reference(path.resolve())
    return ReferenceFile(path.resolve(), opened.n_ctx, opened.first, opened.model)


def automatic(float_bytes: int, memory: MachineMemory) -> str:
    """BF16 where the device or the machine holds the `float_bytes` that it takes, else Q8_0."""
    return FLOAT if float_bytes <= max(memory.device_bytes - MARGIN_BYTES, memory.machine_bytes) else NEAREST


def gpu_layers(needed_bytes: int, layers: int, memory: MachineMemory) -> int:
    """How many of a model's `layers` go to the device: all where it holds what they need, else what fits by size.

    The output counts as one more layer; embeddings stay with the processor.
    """
    if not memory.device_bytes:
        return 0
    free = memory.device_bytes - MARGIN_BYTES
    return ALL_LAYERS if needed_bytes <= free else max(0, free * (layers + 1) // needed_bytes)
