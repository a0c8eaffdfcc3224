"""The int8 arithmetic, compared with closed forms and with compressed-tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from int8.arithmetic import (
    INT8_MAX,
    INT8_MIN,
    dequantize,
    dequantize_weight,
    fake_quantize,
    quantize,
    quantize_tokens,
    quantize_weight,
    scale_and_zero_point,
)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rounding_is_half_to_even():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    assert quantize(x, torch.tensor(1.0), torch.tensor(0)).tolist() == [0, 2, 2, 0, -2, -2]


def test_values_outside_the_range_are_clamped_to_int8():
    x = torch.tensor([1e6, -1e6, 127.4, -128.4])
    assert quantize(x, torch.tensor(1.0), torch.tensor(0)).tolist() == [INT8_MAX, INT8_MIN, 127, -128]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_the_error_is_half_a_step_and_zero_is_exact(symmetric: bool, shift: float):
    x = some(64, 512) + shift
    scale, zero_point = scale_and_zero_point(x.amin(), x.amax(), symmetric)
    assert (fake_quantize(x, scale, zero_point) - x).abs().max() <= scale * 0.5001
    assert fake_quantize(torch.zeros(1), scale, zero_point).item() == 0
    width = 2 * max(x.amax(), -x.amin()) if symmetric else max(x.amax(), 0) - min(x.amin(), 0)
    assert scale.item() == pytest.approx(width.item() / (254 if symmetric else 255), rel=1e-6)


def test_an_empty_range_gives_zeros_and_no_nan():
    zeros = torch.zeros(3, 8)
    q, scale, zero_point = quantize_tokens(zeros, symmetric=False)
    assert torch.equal(dequantize(q, scale, zero_point), zeros)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_token_is_quantized_as_if_alone(dtype: torch.dtype):
    x = (some(5, 7, 96) * torch.logspace(-2, 3, 7)[:, None]).to(dtype)
    q, scale, zero_point = quantize_tokens(x, symmetric=False)
    assert (q.dtype, scale.dtype, zero_point.dtype) == (torch.int8, torch.float32, torch.int32)
    assert scale.shape == (5, 7, 1)
    for i in range(7):
        alone = quantize_tokens(x[2, i], symmetric=False)
        assert torch.equal(alone[0], q[2, i])


def test_symmetric_tokens_have_zero_point_0_and_absmax_127():
    x = torch.tensor([[-2.54, 1.0, 0.0], [0.5, 1.27, -1.0]])
    q, scale, zero_point = quantize_tokens(x, symmetric=True)
    torch.testing.assert_close(scale, torch.tensor([[0.02], [0.01]]))
    assert zero_point.tolist() == [[0], [0]]
    assert zero_point.dtype == torch.int32
    assert q.tolist() == [[-127, 50, 0], [50, 127, -100]]
    assert quantize_tokens(x, symmetric=False)[2].tolist() == [[55], [-16]]  # -128 + 255 * (2.54/3.54, 1/2.27)


def test_weights_have_one_scale_per_output():
    weight = some(16, 64) * torch.logspace(-3, 2, 16)[:, None]
    q, scale = quantize_weight(weight)
    assert q.shape == weight.shape
    assert scale.shape == (16,)
    assert torch.equal(q.abs().amax(1), torch.full((16,), 127, dtype=torch.int8))
    assert ((dequantize_weight(q, scale) - weight).abs() <= scale[:, None] * 0.5001).all()


def test_asymmetric_scales_equal_those_of_compressed_tensors():
    helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize as theirs

    arguments = QuantizationArgs(num_bits=8, type="int", symmetric=False, strategy="tensor")
    for seed in range(20):
        x = some(8, 128, seed=seed) * 10 ** (seed % 5 - 2) + seed - 10
        scale, zero_point = scale_and_zero_point(x.amin(), x.amax(), symmetric=False)
        expected, zero = helpers.calculate_qparams(x.amin().reshape(1), x.amax().reshape(1), arguments)
        assert scale.item() == pytest.approx(expected.item(), rel=1e-6)
        assert zero_point.item() == zero.item()
        assert torch.allclose(fake_quantize(x, scale, zero_point), theirs(x, expected, zero, arguments), atol=1e-5)
