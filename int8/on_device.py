"""Moving a part of a model to a device for as long as it is computed there, in float32.

Weights that were mapped from a file are copied by that. A part that changes keeps the copy; one that does not gets its
own tensors back, so that the memory of a model that is only read grows by one part at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from converters.errors import InputError


@contextmanager
def in_float32(layer: nn.Module, device: torch.device, path: str) -> Iterator[None]:
    """Hold a layer, which may change, on `device` in float32 inside the block; then restore the CPU and its dtypes.

    Raises InputError that names the layer by `path` if the device does not have enough memory.
    """
    dtypes = {name: parameter.dtype for name, parameter in layer.named_parameters()}
    with _moved(layer, device, path):
        yield
    layer.to("cpu")
    for name, parameter in layer.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


@contextmanager
def read_in_float32(layer: nn.Module, device: torch.device, path: str) -> Iterator[None]:
    """The same for a layer that does not change inside the block: it gets the very tensors back that it had."""
    own = [(held, held.data) for held in layer.parameters()]
    places = [(module, dict(module._buffers)) for module in layer.modules()]
    try:
        with _moved(layer, device, path):
            yield
    finally:
        for parameter, tensor in own:
            parameter.data = tensor
        for module, buffers in places:
            module._buffers.update(buffers)


@contextmanager
def _moved(layer: nn.Module, device: torch.device, path: str) -> Iterator[None]:
    try:
        layer.to(device, torch.float32)
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{path}: {device} does not have enough memory for this layer; use another device or the CPU"
        ) from error
