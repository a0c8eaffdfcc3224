"""The functions that int8 linear layers call on CUDA: a path selected by `paths`, and operators for torch.compile."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from int8.kernels import gemm, skinny, tokens, weight_only
from int8.kernels.paths import KernelPath, choose


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    """The device's compute capability; the latest supported one in the interpreter, which runs all kernels."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def by_path(
    path: KernelPath, x: Tensor, weight: Tensor, weight_scale: Tensor, row_sums: Tensor, bias: Tensor | None,
    input_scale: Tensor | None, input_zero_point: Tensor | None, symmetric: bool,
) -> Tensor:  # fmt: skip
    """Like `w8a8`, by a given path: any except INT_MM."""
    if path is KernelPath.SKINNY:
        return skinny.skinny(x, input_scale, input_zero_point, weight, weight_scale, row_sums, bias, symmetric)
    q, scales, zero_points = tokens.quantize_tokens(x, input_scale, input_zero_point, symmetric)
    product = {KernelPath.PERSISTENT: gemm.persistent_gemm, KernelPath.GEMM: gemm.gemm}[path]
    return product(q, scales, zero_points, weight, weight_scale, row_sums, bias, symmetric, x.dtype)


def w8a8(
    x: Tensor, weight: Tensor, weight_scale: Tensor, row_sums: Tensor, bias: Tensor | None,
    input_scale: Tensor | None, input_zero_point: Tensor | None, symmetric: bool,
) -> Tensor:  # fmt: skip
    """[M, N] in the dtype of x [M, K] (contiguous, M above 0), with int8 weights and activations.

    weight is int8 [N, K]; weight_scale (float32), row_sums (int32) and bias are [N]. input_scale (float32) and
    input_zero_point (int32) are [] for static activations, None if each token has its own.
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
