"""What a checkpoint directory takes: its tensors' bytes, and bits per weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from converters.checkpoint import read_safetensors_header

_NO_WEIGHTS = ("scale", "zero_point")  # how the names of an int8 checkpoint end that are no weights of the model


@dataclass(frozen=True)
class StoredSize:
    """`bits_per_weight` counts every byte of every tensor, scales too, over the model's weights."""

    file_bytes: int
    bits_per_weight: float


def stored_size(directory: Path) -> StoredSize:
    """Of all safetensors files there. Raises InputError where one is damaged."""
    files = sorted(directory.glob("*.safetensors"))
    tensors = [tensor for file in files for tensor in read_safetensors_header(file).values()]
    weights = sum(math.prod(tensor.shape) for tensor in tensors if not tensor.name.endswith(_NO_WEIGHTS))
    total = sum(file.stat().st_size for file in files)
    return StoredSize(total, 8 * sum(tensor.nbytes for tensor in tensors) / weights)
