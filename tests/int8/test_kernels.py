"""Kernels compared with exact arithmetic in int64 and float64, for shapes that are no multiples of a tile."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from int8.arithmetic import QuantizedLinear, quantize, quantize_weight, token_scales
from int8.kernels.paths import KernelPath, choose
from int8.linear import Int8Linear
from int8.recipe import Activations

pytest.importorskip("triton", reason="the kernels are Triton's")

from int8.kernels import gemm, linear, skinny, tokens, tuning, weight_only

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (values * (1 + torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)))).to(DEVICE, dtype)


def exact(q: Tensor, scale: Tensor, zero_point: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None):
    """The result of an int8 linear layer in float64, from the layer's operands."""
    product = (q.long() - zero_point.long()) @ weight.long().t()
    y = product.double() * scale.double() * weight_scale.double()
    return y if bias is None else y + bias.double()


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Within a rounding of each value in bfloat16 and float16 (Triton's interpreter truncates there), and within a few
    of the largest in float32, whose products and sums are rounded on the way."""
    if found.dtype is torch.float32:
        bound = 8 * torch.finfo(found.dtype).eps * expected.abs().max()
    else:
        bound = 1.01 * torch.finfo(found.dtype).eps * expected.abs() + 1e-6 * expected.abs().max()
    assert ((found.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(5, 300), (2, 4100), (1, 1)])
def test_tokens_are_quantized_bit_for_bit_as_in_torch(dtype, symmetric, shape):
    x = random(0, *shape, dtype=dtype) + 1.5
    scale, zero_point = token_scales(x, symmetric)
    found, scales, zero_points = tokens.quantize_tokens(x, None, None, symmetric)
    if DEVICE == "cpu":  # on CUDA, torch divides by a scalar by multiplying with its inverse
        assert torch.equal(scales[:, None], scale)
    torch.testing.assert_close(scales[:, None], scale, rtol=1e-6, atol=0)
    assert torch.equal(zero_points[:, None], zero_point)
    assert torch.equal(found, quantize(x, scales[:, None], zero_points[:, None]))


def test_static_scales_clamp_values_outside_and_round_half_to_even():
    scale, zero_point = torch.tensor(0.5, device=DEVICE), torch.tensor(-3, dtype=torch.int32, device=DEVICE)
    x = torch.tensor([[1e9, -1e9, 0.25, 0.75, -0.25, 0.0, 62.1]], device=DEVICE)
    found, *_ = tokens.quantize_tokens(x, scale, zero_point, symmetric=False)
    assert found.tolist() == [[127, -128, -3, -1, -3, -3, 121]]


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_token_of_zeros_stays_zero_and_a_token_that_is_not_finite_gives_nan():
    x = torch.zeros(3, 64, device=DEVICE)
    x[1, 5] = float("nan")
    x[2, 5] = float("inf")
    q, scales, zero_points = tokens.quantize_tokens(x, None, None, symmetric=True)
    assert not q[0].any()
    assert torch.isfinite(scales[0])
    assert torch.isnan(scales[1:]).all()
    weight, weight_scale = quantize_weight(random(1, 8, 64))
    sums = weight.sum(1, dtype=torch.int32)
    y = gemm.gemm(q, scales, zero_points, weight, weight_scale, sums, None, True, torch.float32)
    assert torch.isnan(y[1:]).all()
    assert not y[0].any()


FLAGS = [(True, False, False), (True, True, True), (False, False, True), (False, True, False)]
"""Of these: a scale for each token, symmetric, with a bias."""


def operands(rows: int, columns: int, depth: int, per_token: bool, symmetric: bool, with_bias: bool):
    x = random(2, rows, depth, dtype=torch.bfloat16) + (0 if symmetric else 0.7)
    scale, zero_point = token_scales(x if per_token else x.reshape(1, -1), symmetric)
    weight, weight_scale = quantize_weight(random(3, columns, depth))
    bias = random(4, columns, dtype=torch.bfloat16) if with_bias else None
    q = quantize(x, scale, zero_point)
    expected = exact(q, scale, zero_point, weight, weight_scale, bias)
    flat = (scale[:, 0], zero_point[:, 0]) if per_token else (scale[0, 0], zero_point[0, 0])
    return x, q, *flat, weight, weight_scale, weight.sum(1, dtype=torch.int32), bias, expected


@pytest.mark.parametrize("tiles", sorted(set(tuning.TILES["gemm"]), key=str), ids=str)
def test_every_tile_of_the_product_is_exact(tiles):
    flags = FLAGS[tiles.bm // 16 % 4]
    rows, columns, depth = min(tiles.bm, 40) + 3, tiles.bn + 5, 2 * tiles.bk + 48
    _, q, scale, zero_point, weight, weight_scale, sums, bias, expected = operands(rows, columns, depth, *flags)
    found = gemm.gemm(q, scale, zero_point, weight, weight_scale, sums, bias, flags[1], torch.float32, tiles)
    assert_close(found, expected)


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_products_can_be_called_again_and_end_in_one_cast(flags, dtype):
    tiles = tuning.Tiles(1, 16, 16, 32, 64, 4, 2, split=4)
    _, q, scale, zero_point, weight, weight_scale, sums, bias, expected = operands(33, 50, 200, *flags)
    for _ in range(2):
        found = gemm.gemm(q, scale, zero_point, weight, weight_scale, sums, bias, flags[1], dtype, tiles)
        assert_close(found, expected)


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("shape", [(70, 90, 160), (1, 16, 16), (130, 40, 48)])
def test_the_persistent_product_is_exact(flags, shape):
    tiles = tuning.Tiles(1, 8192, 32, 32, 64, 4, 2)
    _, q, scale, zero_point, weight, weight_scale, sums, bias, expected = operands(*shape, *flags)
    found = gemm.persistent_gemm(q, scale, zero_point, weight, weight_scale, sums, bias, flags[1], torch.float32, tiles)
    assert_close(found, expected)


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 16])
def test_few_tokens_are_quantized_and_multiplied_in_one_launch(flags, rows):
    per_token, symmetric, _ = flags
    x, _, scale, zero_point, weight, weight_scale, sums, bias, expected = operands(rows, 37, 600, *flags)
    static = (None, None) if per_token else (scale, zero_point)
    found = skinny.skinny(x, *static, weight, weight_scale, sums, bias, symmetric)
    assert_close(found, expected)


def test_sums_of_the_largest_int8_values_are_exact_at_the_longest_row():
    depth = 25600  # inputs of Qwen3-32B's down_proj
    x = torch.full((1, depth), -128.0, device=DEVICE)
    weight = torch.full((16, depth), -127, dtype=torch.int8, device=DEVICE)
    one = torch.ones(16, device=DEVICE)
    sums = weight.sum(1, dtype=torch.int32)
    scale, zero_point = torch.tensor(1.0, device=DEVICE), torch.tensor(127, dtype=torch.int32, device=DEVICE)
    q = torch.full((1, depth), -128, dtype=torch.int8, device=DEVICE)
    found = skinny.skinny(x - 127, scale, zero_point, weight, one, sums, None, False)
    assert found.double().unique().tolist() == [255.0 * 127 * depth]
    found = gemm.gemm(q, scale, zero_point, weight, one, sums, None, False, torch.float32)
    assert found.double().unique().tolist() == [255.0 * 127 * depth]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_int8_weights_with_float_activations(dtype, with_bias, rows):
    if DEVICE == "cpu" and dtype is torch.bfloat16 and rows > 1:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 matrices as if they were integers")
    x = (random(5, rows, 200) / 64).to(dtype)
    weight, weight_scale = quantize_weight(random(6, 45, 200) / 64)
    bias = random(7, 45, dtype=dtype) if with_bias else None
    expected = x.double() @ (weight.double() * weight_scale.double()[:, None]).t()
    if bias is not None:
        expected = expected + bias.double()
    assert_close(weight_only.weight_only(x, weight, weight_scale, bias), expected)


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_the_operator_gives_the_same_as_every_path(rows):
    x, _, _, _, weight, weight_scale, sums, _, expected = operands(rows, 24, 160, True, False, False)
    assert_close(linear.w8a8(x, weight, weight_scale, sums, None, None, None, False), expected)
    for path in (KernelPath.GEMM, KernelPath.SKINNY if rows <= 16 else KernelPath.PERSISTENT):
        found = linear.by_path(path, x, weight, weight_scale, sums, None, None, None, False)
        assert_close(found, expected)


def test_a_compiled_layer_calls_the_operators_and_gives_the_same():
    x, _, _, _, weight, weight_scale, _, _, _ = operands(3, 24, 160, True, False, False)
    for activations in (Activations.DYNAMIC, Activations.FLOAT):
        layer = Int8Linear(QuantizedLinear(weight, weight_scale), activations)
        layer._uses_kernels = True  # as on CUDA
        x = x.half()  # the interpreter cannot multiply matrices of bfloat16
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            assert torch.equal(compiled(x), layer(x))


def test_operators_meet_the_requirements_of_torch_compile():
    x, _, _, _, weight, weight_scale, sums, _, _ = operands(3, 24, 160, True, False, False)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        linear.w8a8_operator, (x, weight, weight_scale, sums, None, None, None, False), test_utils=checks
    )
    torch.library.opcheck(linear.w8a16_operator, (x, weight, weight_scale, None), test_utils=checks)


@pytest.mark.parametrize(
    ("m", "k", "capability", "path"),
    [
        (1, 25600, (9, 0), KernelPath.SKINNY),
        (16, 1024, (8, 0), KernelPath.SKINNY),
        (17, 1024, (9, 0), KernelPath.GEMM),
        (2048, 4096, (9, 0), KernelPath.PERSISTENT),
        (2048, 4096, (8, 9), KernelPath.GEMM),
        (2048, 4100, (9, 0), KernelPath.GEMM),
        (5, 4096, (7, 5), KernelPath.INT_MM),
    ],
)
def test_the_path_table_selects_the_expected_path(m, k, capability, path):
    assert choose(m, k, capability).path is path


def test_a_gpu_without_int8_has_no_path():
    with pytest.raises(ValueError, match=r"7\.0"):
        choose(1, 64, (7, 0))


def test_every_number_of_rows_has_tiles():
    for kernel in tuning.TILES:
        for rows in (1, 2, 16, 17, 100, 1024, 100_000):
            served = tuning.fitting(kernel, rows)
            expected = {"gemv": rows == 1, "weight gemv": rows == 1, "skinny": rows <= 16, "persistent": rows > 32}
            assert bool(served) == expected.get(kernel, True), (kernel, rows)
