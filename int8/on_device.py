"""Moving a part of a model to a device for as long as it is computed there, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from converters.errors import InputError


@contextmanager
def in_float32(layer: nn.Module, device: torch.device, path: str) -> Iterator[None]:
    """Hold a layer, or the vision tower, on `device` in float32 inside the block; then restore the CPU and its dtypes.

    Raises InputError that names the layer by `path` if the device does not have enough memory.
    """
    dtypes = {name: parameter.dtype for name, parameter in layer.named_parameters()}
    try:
        layer.to(device, torch.float32)
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{path}: {device} does not have enough memory for this layer; use another device or the CPU"
        ) from error
    layer.to("cpu")
    for name, parameter in layer.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
