"""A linear layer whose inputs are rounded to few bits while the model runs, computed in float."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST = 1e-12  # for tokens that are all zeros


def rounded_tokens(x: Tensor, bits: int) -> Tensor:
    """x [..., width] with each token on its own symmetric grid, in float32.

    The scale is that of compressed-tensors, 2 absmax / (2^bits - 1), with codes from -2^(bits-1) to 2^(bits-1) - 1.
    """
    x = x.float()
    highest = 2 ** (bits - 1) - 1
    scale = (x.abs().amax(-1, keepdim=True) * 2 / (2**bits - 1)).clamp_min(SMALLEST)
    return torch.round(x / scale).clamp(-highest - 1, highest) * scale


class RoundedInputLinear(nn.Module):
    """A linear layer with a dequantized weight [out, in], which rounds its inputs to `bits` bits per value.

    Takes x [..., in] of any float dtype and returns [..., out] in the same dtype; computes in float32.
    """

    def __init__(self, linear: nn.Linear, bits: int) -> None:
        super().__init__()
        self.weight, self.bias, self.bits = linear.weight, linear.bias, bits

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(rounded_tokens(x, self.bits), self.weight.float(), bias).to(x.dtype)

    def extra_repr(self) -> str:
        return f"in={self.weight.shape[1]}, out={self.weight.shape[0]}, activation bits={self.bits}"
