"""Experts as separate linear layers, for models in which transformers stacks all experts in two tensors.

Then calibration, folds and quantization handle only linear layers, with the names that checkpoints use:
mlp.experts.7.down_proj.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Expert(nn.Module):
    """A gated MLP, applied to the tokens routed to it: [n, width] to [n, width]."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = _linear(gate), _linear(up), _linear(down)
        self.act_fn = act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class Experts(nn.ModuleList):
    """Replaces a module of stacked experts; see `separate_experts`."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden_states [n, width]; expert numbers and their weights [n, k]. Returns [n, width]."""
        out = torch.zeros_like(hidden_states)
        for number in top_k_index.unique().tolist():
            token, place = torch.where(top_k_index == number)
            mixed = self[number](hidden_states[token]) * top_k_weights[token, place, None]
            out.index_add_(0, token, mixed.to(out.dtype))
        return out


def separate_experts(model: nn.Module) -> None:
    """Replace all modules of stacked experts in the model. The new weights are views of the stacked ones, not copies.

    The stacked tensors are gate_up_proj [experts, 2 * inner, width] and down_proj [experts, width, inner].
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            gate_up, down = getattr(child, "gate_up_proj", None), getattr(child, "down_proj", None)
            act: Any = getattr(child, "act_fn", None)
            if isinstance(gate_up, nn.Parameter) and isinstance(down, nn.Parameter) and gate_up.ndim == 3:
                inner = down.shape[2]
                setattr(
                    module,
                    name,
                    Experts(Expert(gate_up[i, :inner], gate_up[i, inner:], down[i], act) for i in range(len(down))),
                )


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer
