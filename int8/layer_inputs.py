"""The inputs of a decoder layer for all calibration samples, which are carried through the layers one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from converters.errors import InputError
from int8.model import Decoder
from int8.replaced_forwards import replaced_forwards
from int8.samples import Batch, Samples, batches, token_count

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


class StackInputs(Protocol):
    """The inputs of the next layer of a stack for all samples.

    `n_tokens` are their tokens, or other positions. `run` runs a layer, which is in float32 on the device, over all
    samples; with `keep` its outputs become the next inputs. `halve` makes batches smaller; False if it cannot.
    `too_large` is the error for a layer that does not fit the device.
    """

    n_tokens: int

    def run(self, layer: nn.Module, index: int, keep: bool) -> None: ...

    def halve(self) -> bool: ...

    def too_large(self, path: str) -> InputError: ...


class LayerInputs:
    """The inputs of the next layer for all samples, on the CPU in the model's dtype, in batches of samples of equal
    length: [size, length, width] each.

    They start as the embeddings of tokens and, after the vision tower, of images. Layers run on `device`. Raises
    InputError for images that cannot be used.
    """

    def __init__(self, decoder: Decoder, samples: Samples, device: torch.device, steps: ProgressCounter) -> None:
        self._decoder, self._device, self._steps = decoder, device, steps
        self._halved = False
        self._options: dict[int, list[dict[str, Any]]] = {}
        self.n_tokens = token_count(samples)
        embeddings = decoder.module.get_input_embeddings()
        self._batches = batches(samples, decoder.base, embeddings, device, BATCH_TOKENS)
        self._hidden = [_recorded(decoder, batch.inputs)[0] for batch in self._batches]
        self._latest = 0  # the layer that was run last
        for batch in self._batches:
            batch.inputs.pop("inputs_embeds", None)  # they are in self._hidden

    @property
    def batches(self) -> int:
        """The number of batches of a pass."""
        return len(self._batches)

    def run(self, layer: nn.Module, index: int, keep: bool) -> None:
        """Run a layer (float32, on the device) over all samples; with `keep` its outputs become the next inputs."""
        began = self._steps.done
        try:
            outs = [out.to("cpu", self._dtype) if keep else None for out in self.outputs(layer, index)]
        except torch.OutOfMemoryError:
            self._steps.done = began
            raise
        if keep:
            self.replace([out for out in outs if out is not None])

    def outputs(self, layer: nn.Module, index: int) -> Iterator[Tensor]:
        """The next layer's inputs, by a layer (float32, on the device), batch by batch: each is computed when it is
        asked for."""
        self._latest = index
        for batch, hidden in zip(self._batches, self._hidden, strict=True):
            out = layer(hidden.to(self._device, torch.float32), **self._layer_options(batch, hidden, index))
            yield batch.after_layer(index, out)
            self._steps.add(batch.size)

    def replace(self, outputs: list[Tensor]) -> None:
        """Make `outputs`, of all batches, the next layer's inputs."""
        self._hidden = [out.to("cpu", self._dtype) for out in outputs]
        for batch in self._batches:
            batch.forget(self._latest)

    def halve(self) -> bool:
        """Halve the number of samples per batch. False if that was done before, or if all batches have one sample."""
        if self._halved or all(batch.size == 1 for batch in self._batches):
            return False
        split = [batch.halves() for batch in self._batches]
        self._hidden = [
            part
            for hidden, parts in zip(self._hidden, split, strict=True)
            for part in hidden.split([batch.size for batch in parts])
        ]
        self._batches = [batch for parts in split for batch in parts]
        self._halved = True
        torch.cuda.empty_cache()
        return True

    def too_large(self, path: str) -> InputError:
        """The error for a layer (at `path`) that does not fit the device."""
        largest = max(self._batches, key=lambda batch: batch.size * batch.length)
        return InputError(
            f"{path}: {self._device} does not have enough memory for this layer and {largest.size} samples of"
            f" {largest.length} tokens; use shorter samples, another device or the CPU"
        )

    @property
    def _dtype(self) -> torch.dtype:
        return self._hidden[0].dtype

    def _layer_options(self, batch: Batch, hidden: Tensor, index: int) -> dict[str, Any]:
        """The arguments that the model passes to a layer besides its input. Those for pieces of a text depend only on
        the size of the batch; prompts with images have positions of their own."""
        if "position_ids" in batch.inputs:
            options = _recorded(self._decoder, {**batch.inputs, "inputs_embeds": hidden})[1]
            return {key: _on(value, self._device) for key, value in options[index].items()}
        if batch.size not in self._options:
            options = _recorded(self._decoder, batch.inputs)[1]
            self._options[batch.size] = [
                {key: _on(value, self._device) for key, value in one.items()} for one in options
            ]
        return self._options[batch.size][index]


def _recorded(decoder: Decoder, inputs: dict[str, Tensor]) -> tuple[Tensor, list[dict[str, Any]]]:
    """The first layer's input for a batch's `inputs`, and each layer's other arguments. No layer is computed."""
    seen: list[tuple[Tensor, dict[str, Any]]] = []

    def recorder(hidden_states: Tensor, **options: Any) -> Tensor:
        seen.append((hidden_states, options))
        return hidden_states

    with replaced_forwards(dict.fromkeys(decoder.layers, recorder)):
        decoder.module(**inputs, use_cache=False)
    return seen[0][0], [options for _, options in seen]


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return tuple(_on(item, device) for item in value) if isinstance(value, tuple) else value
