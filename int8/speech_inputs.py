"""The inputs of the layers of a speech model's stacks for all calibration windows, carried from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from converters.errors import InputError
from int8.layer_inputs import ProgressCounter


class SpeechInputs:
    """The inputs of the next layer of a stack, float32 on the CPU, [1, positions, width] for each window.

    `states` are the encoder's outputs that the cross-attention of a decoder reads, None for the encoder. Layers run on
    `device`, one window at a time.
    """

    def __init__(
        self,
        hidden: Sequence[Tensor],
        states: Sequence[Tensor] | None,
        device: torch.device,
        steps: ProgressCounter,
    ) -> None:
        self.hidden = list(hidden)
        self._states, self._device, self._steps = states, device, steps
        self.n_tokens = sum(one.shape[1] for one in self.hidden)
        if states is not None:  # K and V of the cross-attention have as many values as the encoder has outputs
            self.n_tokens = max(self.n_tokens, sum(one.shape[1] for one in states))

    def run(self, layer: nn.Module, index: int, keep: bool) -> None:
        """Run a layer (float32, on the device) over all windows; with `keep` its outputs become the next inputs."""
        for number, hidden in enumerate(self.hidden):
            out = layer(hidden.to(self._device), **self._options(number))
            if keep:
                self.hidden[number] = out.cpu()
            self._steps.add(1)

    def halve(self) -> bool:
        """Whether a pass could use less memory: never, because each batch is one window."""
        return False

    def too_large(self, path: str) -> InputError:
        """The error for a layer (at `path`) that does not fit the device."""
        return InputError(
            f"{path}: {self._device} does not have enough memory for this layer and one window; use another device or"
            " the CPU"
        )

    def _options(self, number: int) -> dict[str, Tensor | None]:
        if self._states is None:
            return {"attention_mask": None}
        # without a mask, self-attention is causal and cross-attention sees every state
        states = self._states[number].to(self._device)
        return {"attention_mask": None, "encoder_hidden_states": states, "use_cache": None}
