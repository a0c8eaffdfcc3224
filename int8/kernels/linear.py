"""What an int8 linear layer calls on CUDA: the path of the table, and operators that torch.compile leaves whole."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from int8.kernels import gemm, skinny, tokens, weight_only
from int8.kernels.paths import Path, choose


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    """In the interpreter the latest is taken: it runs whatever the device machine is."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def by_path(
    path: Path, x: Tensor, weight: Tensor, weight_scale: Tensor, row_sums: Tensor, bias: Tensor | None,
    input_scale: Tensor | None, input_zero_point: Tensor | None, symmetric: bool,
) -> Tensor:  # fmt: skip
    """As `w8a8`, by a path of choice: any but INT_MM."""
    if path is Path.SKINNY:
        return skinny.skinny(x, input_scale, input_zero_point, weight, weight_scale, row_sums, bias, symmetric)
    q, scales, zero_points = tokens.quantize_tokens(x, input_scale, input_zero_point, symmetric)
    product = {Path.PERSISTENT: gemm.persistent_gemm, Path.GEMM: gemm.gemm}[path]
    return product(q, scales, zero_points, weight, weight_scale, row_sums, bias, symmetric, x.dtype)


def w8a8(
    x: Tensor, weight: Tensor, weight_scale: Tensor, row_sums: Tensor, bias: Tensor | None,
    input_scale: Tensor | None, input_zero_point: Tensor | None, symmetric: bool,
) -> Tensor:  # fmt: skip
    """[M, N] in the dtype of x [M, K] (contiguous, M above 0). weight int8 [N, K]; weight_scale float32, row_sums int32
    and bias [N]; input_scale float32 and input_zero_point int32 [] where static, None where each token has its own.
    """
    path = choose(x.shape[0], x.shape[1], _capability(x.device)).path
    return by_path(path, x, weight, weight_scale, row_sums, bias, input_scale, input_zero_point, symmetric)


def w8a16(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """[M, N] in the dtype of x [M, K] (contiguous, M above 0), with weight int8 [N, K] and float activations."""
    return weight_only.weight_only(x, weight, weight_scale, bias)


w8a8_operator = torch.library.custom_op(
    "bitsweep::w8a8",
    w8a8,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor weight_scale, Tensor row_sums, Tensor? bias, Tensor? input_scale,"
    " Tensor? input_zero_point, bool symmetric) -> Tensor",
)
w8a16_operator = torch.library.custom_op(
    "bitsweep::w8a16",
    w8a16,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias) -> Tensor",
)


@w8a8_operator.register_fake
@w8a16_operator.register_fake
def _(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))
