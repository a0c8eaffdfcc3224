"""A linear layer with int8 weights and with int8 or float activations, computed in int8.

y = scale_x * scale_w * (q_x . q_w - zero_point_x * rowsum(q_w)) + bias. The product and the zero point's part are exact
in int32; the rest is float32 with one cast at the end. On CUDA it is computed in a kernel's epilogue (int8/kernels); on
other devices, and for the other dequantizers, by `int_matmul` and torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from converters.errors import MissingRuntime
from int8.arithmetic import QuantizedLinear, quantize, quantize_tokens
from int8.integer_product import integer_product
from int8.kernels.paths import INT8_CAPABILITY
from int8.recipe import Activations, Dequantizer, Recipe

_MIN_ROWS = 17  # torch._int_mm on CUDA needs more than 16 rows,
_MULTIPLE = 8  # and multiples of this as numbers of inputs and outputs


def require_int8(device: torch.device) -> None:
    """Raise MissingRuntime for a CUDA device without int8 matrix units. Other devices are not checked."""
    if device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < INT8_CAPABILITY:
        has, needs = (".".join(map(str, version)) for version in (found, INT8_CAPABILITY))
        raise MissingRuntime(
            f"{torch.cuda.get_device_name(device)}: compute capability {has} has no int8 matrix units (they exist from"
            f" {needs} on); run it on the CPU, or run the fq: variant, which computes in float"
        )


def int_matmul(q: Tensor, weight: Tensor) -> Tensor:
    """int32 [M, N] from q [M, K] and weight [N, K], both int8; exact up to K = 131072.

    Operands are padded with zeros to meet the limits of torch._int_mm on CUDA. A weight that needs no padding is not
    copied.
    """
    if not q.is_cuda:
        return integer_product(q, weight)
    (rows, depth), columns = q.shape, weight.shape[0]
    wider, taller = -depth % _MULTIPLE, -columns % _MULTIPLE
    more = max(_MIN_ROWS - rows, 0)
    more += -(rows + more) % _MULTIPLE
    if wider or more:
        q = pad(q, (0, wider, 0, more))
    if wider or taller:
        weight = pad(weight, (0, wider, 0, taller))
    return torch._int_mm(q, weight.t())[:rows, :columns]


class Int8Linear(torch.nn.Module):
    """An int8 replacement for torch.nn.Linear.

    Buffers: weight int8 [out, in], weight_scale float32 [out], row_sums int32 [out] (not saved), bias [out] or None,
    and for static activations input_scale float32 [] and input_zero_point int32 []. Scales stay float32 if the model is
    cast.

    The output has the dtype of the input, except with FP32_UPCAST: then it is float32, for a model whose other weights
    are float32 too.
    """

    weight: Tensor
    weight_scale: Tensor
    row_sums: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(
        self,
        quantized: QuantizedLinear,
        activations: Activations,
        symmetric: bool = False,
        dequantizer: Dequantizer = Dequantizer.FP32_INTERNAL,
    ) -> None:
        super().__init__()
        if (activations is Activations.STATIC) != (quantized.input_scale is not None):
            raise ValueError(f"{activations} activations with input_scale {quantized.input_scale}")
        self.out_features, self.in_features = quantized.weight.shape
        self.activations = activations
        self.symmetric = symmetric
        self.dequantizer = dequantizer
        for name in ("weight", "weight_scale", "bias", "input_scale", "input_zero_point"):
            held = getattr(quantized, name)
            self.register_buffer(name, held.detach().contiguous() if held is not None else None)
        self._uses_kernels = has_kernels(quantized.weight.device)
        self.register_buffer("row_sums", quantized.weight.sum(1, dtype=torch.int32), persistent=False)
        self.register_load_state_dict_post_hook(_sum_rows)

    @classmethod
    def of(cls, quantized: QuantizedLinear, recipe: Recipe, path: str = "") -> Int8Linear:
        """A layer with the settings of a recipe for the layer with this path in the model."""
        return cls(quantized, recipe.activations_of(path), recipe.symmetric, recipe.dequantizer)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        rows = x.reshape(-1, self.in_features)
        if not len(rows):
            y = rows.new_empty((0, self.out_features))
        elif self.activations is Activations.FLOAT:
            y = self._weight_only(rows)
        elif self.dequantizer is Dequantizer.FP32_INTERNAL and self._uses_kernels:
            y = _kernels("w8a8")(
                rows.contiguous(), self.weight, self.weight_scale, self.row_sums, self.bias, self.input_scale,
                self.input_zero_point, self.symmetric,
            )  # fmt: skip
        else:
            y = self._by_torch(rows)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _by_torch(self, x: Tensor) -> Tensor:
        if self.input_scale is None or self.input_zero_point is None:
            q, scale, zero_point = quantize_tokens(x, self.symmetric)
        else:
            scale, zero_point = self.input_scale, self.input_zero_point
            q = quantize(x, scale, zero_point)
        product = int_matmul(q, self.weight)
        if not self.symmetric:
            product = product - zero_point * self.row_sums
        inner = torch.bfloat16 if self.dequantizer is Dequantizer.BF16 else torch.float32
        if inner is torch.float32:
            y = product.to(inner) * (scale * self.weight_scale)
        else:
            y = product.to(inner) * scale.to(inner) * self.weight_scale.to(inner)
        if self.bias is not None:
            y = y + self.bias.to(inner)
        return y if self.dequantizer is Dequantizer.FP32_UPCAST else y.to(x.dtype)

    def _weight_only(self, x: Tensor) -> Tensor:
        if self._uses_kernels:
            return _kernels("w8a16")(x.contiguous(), self.weight, self.weight_scale, self.bias)
        y = (x.float() @ self.weight.float().t()) * self.weight_scale
        if self.bias is not None:
            y = y + self.bias.float()
        return y.to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        scales = {name: held for name in ("weight_scale", "input_scale") if (held := getattr(self, name)) is not None}
        super()._apply(fn, recurse)
        for name, before in scales.items():  # a cast of the model moves the scales, but keeps their precision
            setattr(self, name, before.to(getattr(self, name).device))
        if self.activations is not Activations.FLOAT:
            require_int8(self.weight.device)
        self._uses_kernels = has_kernels(self.weight.device)
        return self

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, activations={self.activations},"
            f" symmetric={self.symmetric}, dequantizer={self.dequantizer}"
        )


def _sum_rows(layer: torch.nn.Module, _: object) -> None:
    """Recompute the row sums after other weights were loaded."""
    assert isinstance(layer, Int8Linear)
    layer.row_sums = layer.weight.sum(1, dtype=torch.int32)


def _kernels(name: str) -> Callable[..., Tensor]:
    """The kernel's function, whose launch costs less; in torch.compile the operator, which is not traced into."""
    if torch.compiler.is_compiling():
        return cast(Callable[..., Tensor], getattr(torch.ops.bitsweep, name))
    from int8.kernels import linear

    return cast(Callable[..., Tensor], getattr(linear, name))


@cache
def has_kernels(device: torch.device) -> bool:
    """Whether int8/kernels supports this device: CUDA from compute capability 8.0, with Triton installed."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0) or not find_spec("triton"):
        return False
    importlib.import_module("int8.kernels.linear")
    return True
