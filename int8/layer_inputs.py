"""The inputs of a decoder layer for all calibration samples, which are carried through the layers one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import InputError
from int8.model import Decoder

BATCH_TOKENS = 2048  # of a pass: more take more memory, and no less time

Progress = Callable[[int, int], None]
"""Called with (samples read, samples to read), counted over all layers and both passes."""


@dataclass
class ProgressCounter:
    """Counts progress and reports it."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


class LayerInputs:
    """The inputs of the next layer for all samples: [samples, length, width] on the CPU, in the model's dtype.

    They start as the embeddings of `tokens`, int64 [samples, length]. Layers run on `device`.
    """

    def __init__(self, decoder: Decoder, tokens: Tensor, device: torch.device, steps: ProgressCounter) -> None:
        self._decoder, self._tokens, self._device, self._steps = decoder, tokens, device, steps
        self._batch = max(1, BATCH_TOKENS // tokens.shape[1])
        self._halved = False
        self._options: dict[int, list[dict[str, Any]]] = {}
        self.n_tokens = tokens.numel()
        self._hidden = torch.cat([_recorded(decoder, part)[0] for part in tokens.split(self._batch)])

    @property
    def batches(self) -> int:
        """The number of batches of a pass."""
        return -(-len(self._hidden) // self._batch)

    def run(self, layer: nn.Module, index: int, keep: bool) -> None:
        """Run a layer (float32, on the device) over all samples; with `keep` its outputs become the next inputs."""
        began = self._steps.done
        try:
            outs = [out.to("cpu", self._hidden.dtype) if keep else None for out in self.outputs(layer, index)]
        except torch.OutOfMemoryError:
            self._steps.done = began
            raise
        if keep:
            self.replace([out for out in outs if out is not None])

    def outputs(self, layer: nn.Module, index: int) -> Iterator[Tensor]:
        """The outputs of a layer (float32, on the device), batch by batch: each is computed when it is asked for."""
        for part in self._hidden.split(self._batch):
            yield layer(part.to(self._device, torch.float32), **self._layer_options(index, len(part)))
            self._steps.add(len(part))

    def replace(self, outputs: list[Tensor]) -> None:
        """Make `outputs`, of all batches, the next layer's inputs."""
        self._hidden = torch.cat([out.to("cpu", self._hidden.dtype) for out in outputs])

    def halve(self) -> bool:
        """Halve the number of samples per batch. False if that was done before, or if a batch is a single sample."""
        if self._halved or self._batch == 1:
            return False
        self._halved, self._batch = True, self._batch // 2
        torch.cuda.empty_cache()
        return True

    def too_large(self, path: str) -> InputError:
        """The error for a layer (at `path`) that does not fit the device."""
        length = self._tokens.shape[1]
        return InputError(
            f"{path}: {self._device} does not have enough memory for this layer and {self._batch} samples of {length}"
            " tokens; use shorter samples, another device or the CPU"
        )

    def _layer_options(self, index: int, size: int) -> dict[str, Any]:
        """The arguments that the model passes to a layer besides its input: the same for all batches of this size."""
        if size not in self._options:
            options = _recorded(self._decoder, self._tokens[:size])[1]
            self._options[size] = [{key: _on(value, self._device) for key, value in one.items()} for one in options]
        return self._options[size][index]


@contextmanager
def in_float32(layer: nn.Module, device: torch.device, path: str) -> Iterator[None]:
    """Hold a layer on `device` in float32 inside the block; then restore the CPU and its dtypes.

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


def _recorded(decoder: Decoder, tokens: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """The first layer's input for tokens [n, length], and each layer's other arguments. No layer is computed."""
    seen: list[tuple[Tensor, dict[str, Any]]] = []

    def recorder(hidden_states: Tensor, **options: Any) -> Tensor:
        seen.append((hidden_states, options))
        return hidden_states

    with _forwards_of(decoder.layers, recorder):
        decoder.module(input_ids=tokens, use_cache=False)
    return seen[0][0], [options for _, options in seen]


@contextmanager
def _forwards_of(layers: nn.ModuleList, forward: Callable[..., Tensor]) -> Iterator[None]:
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return tuple(_on(item, device) for item in value) if isinstance(value, tuple) else value
