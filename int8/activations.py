"""The samples of a calibration on their way through the layers, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import InputError
from int8.model import Decoder

BATCH_TOKENS = 8192

Progress = Callable[[int, int], None]
"""(samples read, samples to be read): of every layer, in both passes."""


@dataclass
class Steps:
    """Progress, counted."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


class LayerInputs:
    """What the next layer is given, of every sample: [samples, length, width] on the CPU, in the model's dtype.

    Made from `tokens` int64 [samples, length]; layers are run on `device`.
    """

    def __init__(self, decoder: Decoder, tokens: Tensor, device: torch.device, steps: Steps) -> None:
        self._decoder, self._tokens, self._device, self._steps = decoder, tokens, device, steps
        self._batch = max(1, BATCH_TOKENS // tokens.shape[1])
        self._halved = False
        self._options: dict[int, list[dict[str, Any]]] = {}
        self.n_tokens = tokens.numel()
        self._hidden = torch.cat([_recorded(decoder, part)[0] for part in tokens.split(self._batch)])

    def run(self, layer: nn.Module, index: int, keep: bool) -> None:
        """Run a layer (float32, on the device) over all samples; with `keep` what comes out becomes the samples."""
        outs, began = [], self._steps.done
        try:
            for part in self._hidden.split(self._batch):
                out = layer(part.to(self._device, torch.float32), **self._layer_options(index, len(part)))
                if keep:
                    outs.append(out.to("cpu", part.dtype))
                self._steps.add(len(part))
        except torch.OutOfMemoryError:
            self._steps.done = began
            raise
        if keep:
            self._hidden = torch.cat(outs)

    def halve(self) -> bool:
        """Take half as many samples at once; False where that was done before, or there is but one."""
        if self._halved or self._batch == 1:
            return False
        self._halved, self._batch = True, self._batch // 2
        torch.cuda.empty_cache()
        return True

    def too_large(self, path: str) -> InputError:
        """What to say where the layer `path` does not fit the device."""
        length = self._tokens.shape[1]
        return InputError(
            f"{path}: {self._device} has no memory for this layer and {self._batch} samples of {length} tokens;"
            " take shorter samples, another device or the CPU"
        )

    def _layer_options(self, index: int, size: int) -> dict[str, Any]:
        """What the model passes to a layer beside the activations: the same for every batch of a size."""
        if size not in self._options:
            options = _recorded(self._decoder, self._tokens[:size])[1]
            self._options[size] = [{key: _on(value, self._device) for key, value in one.items()} for one in options]
        return self._options[size][index]


@contextmanager
def in_float32(layer: nn.Module, device: torch.device, path: str) -> Iterator[None]:
    """A layer on `device` in float32, and back on the CPU in the dtypes it had. Raises InputError naming it by `path`
    where the device has no memory for it."""
    dtypes = {name: parameter.dtype for name, parameter in layer.named_parameters()}
    try:
        layer.to(device, torch.float32)
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"{path}: {device} has no memory for this layer; take another or the CPU") from error
    layer.to("cpu")
    for name, parameter in layer.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def _recorded(decoder: Decoder, tokens: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """What the first layer is given for these tokens [n, length], and each layer's other arguments; no layer is run."""
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
