"""The quantized model in float: what a recipe quantizes is rounded to int8 and back; the rest stays unchanged.

Real int8 is compared with this model: it has the same weights, scales and zero points, with products in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from converters.errors import InputError
from int8.architectures import AttentionModules, architecture
from int8.arithmetic import (
    QuantizedLinear,
    Quantizer,
    dequantize_weight,
    fake_quantize,
    quantize_weight,
    token_scales,
)
from int8.recipe import Activations, Insertion, Recipe, Scales, Stacks

ATTENTION = "bitsweep_fake_quant"  # our attention function's name in transformers


class _Float32Buffers(nn.Module):
    """Keeps float buffers in float32 when the model is cast, because a scale in bfloat16 would be a different scale."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Float32Buffers:
        before = {name: held for name, held in self._buffers.items() if held is not None and held.is_floating_point()}
        super()._apply(fn, recurse)
        for name, held in before.items():
            self._buffers[name] = held.to(self.get_buffer(name).device)
        return self


class FakeQuantLinear(_Float32Buffers):
    """A linear layer with int8 weights, whose input is rounded to int8 and back.

    Takes x [..., in] of any float dtype and returns [..., out] in the same dtype; computes in float32.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(self, state: QuantizedLinear, recipe: Recipe, path: str = "") -> None:
        """`path` is the layer's path in the model, or in a layer of it."""
        super().__init__()
        self.activations, self.symmetric = recipe.activations_of(path), recipe.symmetric
        for name in ("weight", "weight_scale", "bias", "input_scale", "input_zero_point"):
            self.register_buffer(name, getattr(state, name))

    @property
    def state(self) -> QuantizedLinear:
        """The tensors from which `int8.real_int8` makes a real int8 layer."""
        return QuantizedLinear(self.weight, self.weight_scale, self.bias, self.input_scale, self.input_zero_point)

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.linear(
            self._input(x),
            dequantize_weight(self.weight, self.weight_scale),
            None if self.bias is None else self.bias.float(),
        )
        return out.to(x.dtype)

    def _input(self, x: Tensor) -> Tensor:
        if self.activations is Activations.FLOAT:
            return x.float()
        if self.activations is Activations.DYNAMIC:
            return fake_quantize(x, *token_scales(x, self.symmetric))
        assert self.input_scale is not None
        assert self.input_zero_point is not None
        return fake_quantize(x, self.input_scale, self.input_zero_point)

    def extra_repr(self) -> str:
        return f"in={self.weight.shape[1]}, out={self.weight.shape[0]}, activations={self.activations}"


class FakeQuantize(_Float32Buffers):
    """Rounds Q, K or V [..., heads, head_dim] to int8 and back with static scales, in the dtype of the input."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.register_buffer("scale", quantizer.scale)
        self.register_buffer("zero_point", quantizer.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.scale, self.zero_point).to(x.dtype)


def quantized_linear(layer: nn.Linear, input_range: Quantizer | None = None) -> QuantizedLinear:
    """A linear layer with int8 weights. `input_range` has the static scale and zero point ([] each) of its input."""
    weight, scale = quantize_weight(layer.weight.detach())
    bias = None if layer.bias is None else layer.bias.detach().float()
    if input_range is None:
        return QuantizedLinear(weight, scale, bias)
    return QuantizedLinear(weight, scale, bias, input_range.scale, input_range.zero_point)


def linears_to_quantize(layer: nn.Module, path: str, recipe: Recipe) -> list[str]:
    """Paths, in a decoder layer, of the linear layers that get int8 weights. `path` is the decoder layer's path."""
    return [
        name
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and not recipe.keeps(f"{path}.{name}")
    ]


def quantized_parts(recipe: Recipe) -> Iterator[tuple[str, Scales]]:
    """The inputs of attention that a recipe quantizes ("query", "key", "value"), each with its kind of scales."""
    for name, scales in (("query", recipe.query_key), ("key", recipe.query_key), ("value", recipe.value)):
        if scales is not Scales.FLOAT:
            yield name, scales


def attentions(module: nn.Module, stacks: Stacks = Stacks.BOTH) -> Iterator[tuple[nn.Module, AttentionModules]]:
    """The softmax attention modules in these stacks of a model, or in a layer, each with its entry of the architecture
    table."""
    for path, found in module.named_modules():
        known = architecture(getattr(getattr(found, "config", None), "model_type", ""))
        for modules in () if known is None or not stacks.include(path) else known.attentions:
            if path.rpartition(".")[2] == modules.path:
                yield found, modules


def require_attention(model: PreTrainedModel, recipe: Recipe) -> None:
    """Raise InputError if a recipe quantizes Q, K, V or the KV cache, but the model has no attention known to int8."""
    if not (recipe.quantizes_attention or recipe.int8_kv_cache):
        return
    found = list(attentions(model, recipe.stacks))
    model_type = model.get_decoder().config.model_type
    remedy = "choose a recipe that leaves attention and the KV cache float, such as w8a8"
    if not found:
        raise InputError(
            f"recipe {recipe.name}: int8 finds no attention that it supports in this {model_type} model; {remedy}"
        )
    for attention, modules in found:
        lacking = [name for name in modules.modules if not isinstance(getattr(attention, name, None), nn.Module)]
        if lacking:
            raise InputError(
                f"recipe {recipe.name}: attention of this {model_type} model has no {', '.join(lacking)}, where int8"
                f" would quantize it; {remedy}"
            )


def require_stacks(model: PreTrainedModel, recipe: Recipe) -> None:
    """Raise InputError if a recipe has settings for layers that the model does not have: an encoder, fc2."""
    model_type = model.get_decoder().config.model_type
    if recipe.stacks is not Stacks.BOTH and not model.config.is_encoder_decoder:
        raise InputError(f"recipe {recipe.name}: this {model_type} model has no encoder; leave @{recipe.stacks} out")
    if recipe.has_dynamic_fc2 and not any(name.endswith(".fc2") for name, _ in model.named_modules()):
        raise InputError(f"recipe {recipe.name}: this {model_type} model has no layers fc2 after GELU; leave fc2 out")


def attach_attention(model: PreTrainedModel, recipe: Recipe) -> None:
    """Let all attention modules use their `query_quantizer`, `key_quantizer` and `value_quantizer` as the recipe says.

    Raises InputError as `require_attention` does.
    """
    if not (recipe.quantizes_attention or recipe.int8_kv_cache):
        return
    require_attention(model, recipe)
    for attention, modules in attentions(model, recipe.stacks):
        attention.int8_recipe = recipe  # type: ignore[assignment]  # torch types every attribute as a module
        if quantizes_projections(recipe):
            for norm, name in ((modules.query_norm, "query"), (modules.key_norm, "key")):
                if norm is not None:
                    _quantize_before(attention.get_submodule(norm), attention.get_submodule(f"{name}_quantizer"))
    quantize_outputs(model, recipe)
    use_attention(model, ATTENTION)


def use_attention(model: PreTrainedModel, name: str) -> None:
    """Let a model use the attention function of this name: in its decoder, and in the encoder of a speech model, which
    has the same config; but not in a vision tower."""
    model.get_decoder().set_attn_implementation(name)


def quantizes_projections(recipe: Recipe) -> bool:
    """Whether a recipe quantizes Q and K before norms and RoPE."""
    return recipe.query_key is not Scales.FLOAT and recipe.insertion is Insertion.PROJECTION


def quantize_outputs(model: PreTrainedModel, recipe: Recipe) -> None:
    """Quantize the outputs of the linear layers that compute Q and K, if the recipe says so and there are no norms
    after them. Needed again when other modules replace these layers."""
    for attention, modules in attentions(model, recipe.stacks) if quantizes_projections(recipe) else ():
        for norm, linear, name in (
            (modules.query_norm, modules.query, "query"),
            (modules.key_norm, modules.key, "key"),
        ):
            if norm is None:
                quantizer = attention.get_submodule(f"{name}_quantizer")
                _quantize_after(attention.get_submodule(linear), quantizer, int(attention.head_dim))  # type: ignore[arg-type]


def _quantize_before(norm: nn.Module, quantizer: nn.Module) -> None:
    norm.register_forward_pre_hook(lambda _, inputs: (quantizer(inputs[0]), *inputs[1:]))


def _quantize_after(linear: nn.Module, quantizer: nn.Module, width: int) -> None:
    linear.register_forward_hook(lambda _, inputs, out: quantizer(out.unflatten(-1, (-1, width))).flatten(-2))


def quantized_inputs(attention: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K and V [batch, heads, tokens, head_dim] as the recipe's attention product reads them, rounded to int8."""
    recipe: Recipe = attention.int8_recipe  # type: ignore[assignment]
    at_rope = recipe.insertion is Insertion.ROPE
    if recipe.query_key is not Scales.FLOAT and at_rope:
        query, key = _through(attention, "query", query), _through(attention, "key", key)
    if recipe.value is not Scales.FLOAT:
        value = _through(attention, "value", value)
    if recipe.int8_kv_cache:
        if not (at_rope and recipe.query_key is not Scales.FLOAT):
            key = fake_quantize(key, *token_scales(key, symmetric=True)).to(key.dtype)
        if not (at_rope and recipe.value is not Scales.FLOAT):
            value = fake_quantize(value, *token_scales(value, symmetric=True)).to(value.dtype)
    return query, key, value


def _through(attention: nn.Module, name: str, x: Tensor) -> Tensor:
    out: Tensor = attention.get_submodule(f"{name}_quantizer")(x.transpose(1, 2))
    return out.transpose(1, 2)


def fake_quant_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' SDPA on quantized inputs. Past keys and values are quantized again, which does not change them.
    A module in a stack that the recipe leaves float has no recipe."""
    if hasattr(module, "int8_recipe"):
        query, key, value = quantized_inputs(module, query, key, value)
    out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return out


AttentionInterface.register(ATTENTION, fake_quant_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def replace_linear(parent: nn.Module, path: str, new: nn.Module) -> None:
    """Replace the module at `path` under `parent`."""
    where, _, name = path.rpartition(".")
    setattr(parent.get_submodule(where), name, new)


@torch.no_grad()
def add_quantizer(attention: nn.Module, name: str, quantizer: Quantizer) -> None:
    """Add a quantizer for "query", "key" or "value" to an attention module."""
    attention.add_module(f"{name}_quantizer", FakeQuantize(quantizer))


def quantizer_of(attention: nn.Module, name: str) -> Quantizer:
    """The quantizer that `add_quantizer` added."""
    held = attention.get_submodule(f"{name}_quantizer")
    return Quantizer(held.scale, held.zero_point)  # type: ignore[arg-type]  # torch types every attribute as a module
