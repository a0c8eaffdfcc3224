"""Real int8 layers compared with int64 arithmetic, a fake-quant written here, and the program's fake-quant."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from converters.errors import MissingRuntime
from int8 import integer_product
from int8.arithmetic import QuantizedLinear, quantize_weight, scale_and_zero_point
from int8.calibrate import calibrate
from int8.fakequant import FakeQuantLinear
from int8.linear import Int8Linear, int_matmul, require_int8
from int8.real_int8 import to_int8
from int8.recipe import NAMED, Activations, Dequantizer, Recipe


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outliers(rows: int, columns: int) -> Tensor:
    """Activations with one outlier channel, as in large models."""
    x = random(0, rows, columns) + 0.3
    x[:, 3] *= 30
    return x


def layer(x: Tensor, activations: Activations, symmetric: bool, with_bias: bool = False) -> QuantizedLinear:
    weight, weight_scale = quantize_weight(random(1, 24, x.shape[-1]))
    bias = random(2, 24) if with_bias else None
    if activations is not Activations.STATIC:
        return QuantizedLinear(weight, weight_scale, bias)
    return QuantizedLinear(weight, weight_scale, bias, *scale_and_zero_point(x.min(), x.max(), symmetric))


def float_fake_quant(state: QuantizedLinear, x: Tensor, activations: Activations, symmetric: bool) -> Tensor:
    """Fake-quant by its definition, in float64: each token, or the whole tensor, on a grid of 255 steps."""
    x = x.double()
    if activations is not Activations.FLOAT:
        values = x if activations is Activations.DYNAMIC else x.reshape(1, -1)
        low, high = values.min(-1, keepdim=True).values.clamp(max=0), values.max(-1, keepdim=True).values.clamp(min=0)
        if symmetric:
            step, zero = torch.maximum(-low, high) / 127, torch.zeros_like(low)
        else:
            step = (high - low) / 255
            zero = (-128 - (low / step).round()).clamp(-128, 127)
        x = (((x / step).round() + zero).clamp(-128, 127) - zero) * step
    y = x @ (state.weight.double() * state.weight_scale.double()[:, None]).t()
    return y if state.bias is None else y + state.bias.double()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


KINDS = [(kind, symmetric) for kind in (Activations.STATIC, Activations.DYNAMIC) for symmetric in (False, True)]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("activations", "symmetric"), [*KINDS, (Activations.FLOAT, False)])
def test_real_int8_agrees_with_fake_quant(activations, symmetric, with_bias):
    x = outliers(40, 200)
    state = layer(x, activations, symmetric, with_bias)
    real = Int8Linear(state, activations, symmetric)(x)
    assert relative(real, float_fake_quant(state, x, activations, symmetric)) < 1e-5
    recipe = Recipe("any", activations=activations, symmetric=symmetric)
    assert relative(real, FakeQuantLinear(state, recipe)(x).double()) < 1e-5


@pytest.mark.parametrize(("activations", "symmetric"), KINDS)
def test_in_bfloat16_only_one_cast_loses_precision(activations, symmetric):
    x = outliers(40, 200).bfloat16()
    state = layer(x, activations, symmetric)
    expected = float_fake_quant(state, x, activations, symmetric)
    real = Int8Linear(state, activations, symmetric)
    difference = (real(x).double() - expected).abs()
    # Half a step of bfloat16, plus the effect of values that are rounded to the other side.
    assert (difference <= torch.finfo(torch.bfloat16).eps / 2 * expected.abs() + 1e-5 * expected.abs().max()).all()


def test_the_dequantizers_differ_as_their_names_say():
    x = outliers(64, 200).bfloat16()
    state = layer(x, Activations.DYNAMIC, False)
    expected = float_fake_quant(state, x, Activations.DYNAMIC, False)
    made = {mode: Int8Linear(state, Activations.DYNAMIC, False, mode)(x) for mode in Dequantizer}
    error = {mode: relative(y, expected) for mode, y in made.items()}
    assert made[Dequantizer.FP32_UPCAST].dtype is torch.float32
    assert made[Dequantizer.FP32_INTERNAL].dtype is made[Dequantizer.BF16].dtype is torch.bfloat16
    assert error[Dequantizer.FP32_UPCAST] < 1e-5 < error[Dequantizer.FP32_INTERNAL] < 0.002
    assert error[Dequantizer.BF16] > 1.3 * error[Dequantizer.FP32_INTERNAL]


@pytest.mark.parametrize("cpu_multiplies_int8", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (16, 9, 8), (17, 64, 24), (40, 4100, 3), (5, 1, 4100)])
def test_the_integer_product_is_exact_at_every_shape(shape, cpu_multiplies_int8, monkeypatch):
    monkeypatch.setattr(integer_product, "multiplies_int8", lambda: cpu_multiplies_int8)
    rows, depth, columns = shape
    generator = torch.Generator().manual_seed(3)
    q, weight = (torch.randint(-128, 128, (n, depth), generator=generator).to(torch.int8) for n in (rows, columns))
    q[0], weight[0] = -128, -128  # the largest sum
    found = int_matmul(q, weight)
    assert found.dtype is torch.int32
    assert torch.equal(found.long(), q.long() @ weight.long().t())
    if rows > 1:
        q[0], weight[0], weight[-1] = 127, -127, -128  # sums of odd products, and the smallest
        assert torch.equal(int_matmul(q, weight).long(), q.long() @ weight.long().t())


@pytest.mark.parametrize("activations", list(Activations))
def test_every_leading_shape_is_kept_including_an_empty_one(activations):
    x = outliers(12, 32)
    real = Int8Linear(layer(x, activations, False), activations)
    flat = real(x)
    for found, expected in (
        (real(x.reshape(3, 4, 32)), flat.reshape(3, 4, 24)), (real(x[0]), flat[0]), (real(x.t().contiguous().t()), flat)
    ):  # fmt: skip
        torch.testing.assert_close(found, expected)
    assert real(x[:0]).shape == (0, 24)


def test_scales_stay_float32_when_the_model_is_cast_and_are_in_its_state():
    x = outliers(12, 32)
    quantized = layer(x, Activations.STATIC, False, with_bias=True)
    real = Int8Linear(quantized, Activations.STATIC)
    before = real(x)
    cast = torch.nn.Sequential(real).bfloat16()[0]
    assert cast.weight_scale.dtype is cast.input_scale.dtype is torch.float32
    assert cast.weight.dtype is torch.int8
    assert set(real.state_dict()) == {"weight", "weight_scale", "bias", "input_scale", "input_zero_point"}
    again = Int8Linear(replace(quantized, weight=torch.ones_like(real.weight)), Activations.STATIC)
    again.load_state_dict(cast.state_dict())
    assert relative(again(x), before.double()) < 0.002  # the bias was cast


def test_weights_take_half_the_bytes_of_bfloat16_without_another_copy():
    x = outliers(2, 2048)
    weight, weight_scale = quantize_weight(random(1, 2048, 2048))
    real = Int8Linear(QuantizedLinear(weight, weight_scale), Activations.DYNAMIC)
    real(x)
    held = sum(buffer.nbytes for buffer in real.buffers())
    assert held <= 2048 * 2048 * 2 * 0.503
    assert not list(real.parameters())


def test_static_activations_require_a_scale():
    with pytest.raises(ValueError, match="static"):
        Int8Linear(layer(outliers(2, 8), Activations.DYNAMIC, False), Activations.STATIC)


def test_a_gpu_without_int8_is_rejected_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(MissingRuntime, match=r"Tesla V100: compute capability 7\.0 .*from 7\.5 .*fq:"):
        require_int8(torch.device("cuda"))
    require_int8(torch.device("cpu"))


def test_the_path_without_cuda_imports_no_triton():
    script = "import sys, int8.linear; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], env=os.environ, check=False).returncode == 0


@pytest.mark.parametrize("name", ["w8a8", "w8a8-dyn"])
@torch.no_grad()
def test_a_whole_model_agrees_in_real_int8_and_fake_quant(fresh, calibration_tokens, perplexity, name):
    model, recipe = fresh(), NAMED[name]
    calibrate(model, calibration_tokens[:4], recipe)
    differences: list[float] = []

    def compare(layer: FakeQuantLinear, inputs: tuple[Tensor], output: Tensor) -> None:
        differences.append(relative(Int8Linear.of(layer.state, recipe)(inputs[0]), output.double()))

    layers = [module for module in model.modules() if isinstance(module, FakeQuantLinear)]
    hooks = [layer.register_forward_hook(compare) for layer in layers]
    model(calibration_tokens[:1])
    for hook in hooks:
        hook.remove()
    assert len(differences) == len(layers) > 0
    assert max(differences) < 1e-5
    expected = perplexity(model)
    real = perplexity(to_int8(model, recipe))
    kinds = {type(module) for module in model.modules()}
    assert Int8Linear in kinds
    assert FakeQuantLinear not in kinds
    assert abs(real / expected - 1) < 1e-3
