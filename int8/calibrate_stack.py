"""Calibration of the layers of one stack, one after the other: measured, folded, measured again and quantized."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from converters.errors import InputError
from int8.arithmetic import Quantizer, scale_and_zero_point
from int8.calibration_passes import LayerPasses
from int8.fakequant import (
    FakeQuantLinear,
    add_quantizer,
    attentions,
    linears_to_quantize,
    quantized_linear,
    quantized_parts,
    replace_linear,
)
from int8.fold import apply_fold, fold_rules, fold_scales
from int8.layer_inputs import StackInputs
from int8.model import Decoder
from int8.on_device import in_float32
from int8.recipe import Activations, Recipe, Scales
from int8.statistics import Statistics


class StackCalibration:
    """Calibration of the layers of a decoder or an encoder. `inputs` is None if nothing has to be measured."""

    def __init__(self, decoder: Decoder, recipe: Recipe, device: torch.device, statistics: Statistics) -> None:
        self.decoder, self.recipe, self.device, self.statistics = decoder, recipe, device, statistics
        self.inputs: StackInputs | None = None
        static = recipe.activations is Activations.STATIC
        self.smooths = bool(recipe.folds) and not statistics.channel_max
        self.measures = (static or recipe.quantizes_attention) and not statistics.ranges

    @property
    def passes(self) -> int:
        """Number of passes over the text, summed over all layers."""
        return len(self.decoder.layers) * (self.smooths + self.measures)

    def layer(self, index: int) -> None:
        """Turn one layer from float to fake-quant, and compute the inputs of the next."""
        layer, path = self.decoder.layers[index], f"{self.decoder.path}.{index}"
        with in_float32(layer, self.device, path):
            self._measure_and_quantize(layer, index, path)

    def _measure_and_quantize(self, layer: nn.Module, index: int, path: str) -> None:
        linears = linears_to_quantize(layer, path, self.recipe)
        rules = fold_rules(layer, self.decoder.model_type, self.recipe.folds)
        passes = None
        if self.inputs is not None:
            passes = LayerPasses(layer, index, self.decoder.key(index), path, self.recipe, self.inputs, self.statistics)
        if passes and self.smooths:
            passes.measure_maxima(rules, last=not self.measures)
        for rule in rules:
            seen = self.statistics.channel_max.get(f"{self.decoder.key(index)}.{rule.fold}.{rule.producer}")
            if seen is not None:
                apply_fold(layer, rule, fold_scales(layer, rule, seen.to(self.device), set(linears), self.recipe.alpha))
        if passes and self.measures:
            passes.measure_ranges(linears)
        self._quantize(layer, index, path, linears)

    def _quantize(self, layer: nn.Module, index: int, path: str, linears: list[str]) -> None:
        for name in linears:
            linear = layer.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            if not torch.isfinite(linear.weight).all():
                raise InputError(
                    f"{path}.{name}: its weights are NaN or infinite; the checkpoint is damaged: download it again"
                )
            seen = None
            if self.recipe.activations_of(name) is Activations.STATIC:
                seen = self._quantizer(f"{self.decoder.key(index)}.{name}", self.recipe.symmetric, ())
            replace_linear(layer, name, FakeQuantLinear(quantized_linear(linear, seen), self.recipe, name))
        for attention, modules in attentions(layer):
            shapes: Mapping[Scales, tuple[int, ...]] = {
                Scales.TENSOR: (1, 1),
                Scales.HEAD: (-1, 1),
                Scales.CHANNEL: (-1, int(attention.head_dim)),  # type: ignore[arg-type]  # torch types it as a module
            }
            for name, scales in quantized_parts(self.recipe):
                key = f"{self.decoder.key(index)}.{modules.path}.{name}"
                add_quantizer(attention, name, self._quantizer(key, self.recipe.attention_symmetric, shapes[scales]))

    def _quantizer(self, key: str, symmetric: bool, shape: tuple[int, ...]) -> Quantizer:
        low, high = self.statistics.ranges[key].to(self.device)
        scale, zero_point = scale_and_zero_point(low, high, symmetric)
        return Quantizer(scale.reshape(shape), zero_point.reshape(shape))
