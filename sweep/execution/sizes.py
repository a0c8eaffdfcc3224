"""What a checkpoint directory takes: its files' bytes, and bits per weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from converters.checkpoint import StoredTensor, read_safetensors_header

_NO_WEIGHTS = ("scale", "zero_point", "weight_shape")  # how names of an int8 checkpoint end that are no model's weights
_PACKED = "weight_packed"  # four int8 weights to an int32, as compressed-tensors writes int8 weights under float inputs


@dataclass(frozen=True)
class StoredSize:
    """`bits_per_weight` counts every byte of every tensor, scales too, over the model's weights."""

    file_bytes: int
    bits_per_weight: float


def stored_size(directory: Path) -> StoredSize:
    """Of all safetensors files there. Raises InputError where one is damaged."""
    files = sorted(directory.glob("*.safetensors"))
    tensors = [tensor for file in files for tensor in read_safetensors_header(file).values()]
    weights = sum(_weights(tensor) for tensor in tensors)
    total = sum(file.stat().st_size for file in files)
    return StoredSize(total, 8 * sum(tensor.nbytes for tensor in tensors) / weights)


def _weights(tensor: StoredTensor) -> int:
    if tensor.name.endswith(_NO_WEIGHTS):
        return 0
    return math.prod(tensor.shape) * (4 if tensor.name.endswith(_PACKED) else 1)
