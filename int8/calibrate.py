"""Calibration: a model reads samples layer by layer; each layer is folded and quantized before the next one is read.

Only the samples' inputs to the current layer are kept, not all activations. The layer reads them once to measure the
channels for the folds, and again, folded, to measure the ranges of the quantizers. So a device needs memory for only
one layer (in float32) and one batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from converters.errors import InputError
from int8.arithmetic import Quantizer, scale_and_zero_point
from int8.calibration_passes import OBSERVED_ATTENTION, LayerPasses
from int8.fakequant import (
    FakeQuantLinear,
    add_quantizer,
    attach_attention,
    attentions,
    linears_to_quantize,
    quantized_linear,
    quantized_parts,
    replace_linear,
    require_attention,
)
from int8.fold import apply_fold, fold_rules, fold_scales
from int8.layer_inputs import LayerInputs, Progress, ProgressCounter
from int8.model import Decoder, decoder_of
from int8.on_device import in_float32
from int8.quantize_tower import quantize_tower, require_tower
from int8.recipe import Activations, Recipe, Scales
from int8.samples import Samples
from int8.statistics import Statistics


@torch.no_grad()
def calibrate(
    model: PreTrainedModel,
    samples: Samples,
    recipe: Recipe,
    *,
    device: str = "cpu",
    known: Statistics | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Fold and fake-quantize `model` (on the CPU, with separate experts) in place, calibrated on `samples`.

    Layers are moved to `device` one by one and back. Statistics in `known` are not measured again. Returns all
    statistics that were used, known or measured.

    Raises InputError for activations or weights that are NaN or infinite (the message names the layer), for an
    architecture that is not in ARCHITECTURES or lacks what the recipe quantizes, and for a device without enough memory
    for one layer.
    """
    decoder = decoder_of(model)
    require_attention(model, recipe)
    if recipe.vision:
        require_tower(decoder.base, samples, recipe)
    statistics = Statistics() if known is None else known
    work = _Calibration(decoder, recipe, torch.device(device), statistics)
    if work.passes:
        counter = ProgressCounter(progress, work.passes * len(samples))
        work.inputs = LayerInputs(decoder, samples, work.device, counter)
    before = decoder.module.config._attn_implementation
    decoder.module.set_attn_implementation(OBSERVED_ATTENTION)
    try:
        for index in range(len(decoder.layers)):
            work.layer(index)
    finally:
        decoder.module.set_attn_implementation(before)
    attach_attention(model, recipe)
    if recipe.vision:  # last, because the decoder reads the features of the float tower
        work.inputs = None  # they are not needed any more
        quantize_tower(decoder.base, samples, recipe, work.device, statistics)
    return statistics


class _Calibration:
    """Calibration of a decoder's layers, one after the other."""

    def __init__(self, decoder: Decoder, recipe: Recipe, device: torch.device, statistics: Statistics) -> None:
        self.decoder, self.recipe, self.device, self.statistics = decoder, recipe, device, statistics
        self.inputs: LayerInputs | None = None
        self._static = recipe.activations is Activations.STATIC
        self._smooths = bool(recipe.folds) and not statistics.channel_max
        self._measures = (self._static or recipe.quantizes_attention) and not statistics.ranges

    @property
    def passes(self) -> int:
        """Number of passes over the text, summed over all layers."""
        return len(self.decoder.layers) * (self._smooths + self._measures)

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
            passes = LayerPasses(layer, index, path, self.recipe, self.inputs, self.statistics)
        if passes and self._smooths:
            passes.measure_maxima(rules, last=not self._measures)
        for rule in rules:
            seen = self.statistics.channel_max.get(f"{index}.{rule.fold}.{rule.producer}")
            if seen is not None:
                apply_fold(layer, rule, fold_scales(layer, rule, seen.to(self.device), set(linears), self.recipe.alpha))
        if passes and self._measures:
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
            seen = self._quantizer(f"{index}.{name}", self.recipe.symmetric, ()) if self._static else None
            replace_linear(layer, name, FakeQuantLinear(quantized_linear(linear, seen), self.recipe))
        for attention, _ in attentions(layer):
            shapes: Mapping[Scales, tuple[int, ...]] = {
                Scales.TENSOR: (1, 1),
                Scales.HEAD: (-1, 1),
                Scales.CHANNEL: (-1, int(attention.head_dim)),  # type: ignore[arg-type]  # torch types it as a module
            }
            for name, scales in quantized_parts(self.recipe):
                key = f"{index}.self_attn.{name}"
                add_quantizer(attention, name, self._quantizer(key, self.recipe.attention_symmetric, shapes[scales]))

    def _quantizer(self, key: str, symmetric: bool, shape: tuple[int, ...]) -> Quantizer:
        low, high = self.statistics.ranges[key].to(self.device)
        scale, zero_point = scale_and_zero_point(low, high, symmetric)
        return Quantizer(scale.reshape(shape), zero_point.reshape(shape))
