"""The statistics of many recipes from a single reading of the text.

Calibration reads the text twice per recipe: before its folds and after them. But a fold only divides channels, so the
range of a folded input follows from the ranges of its channels, each divided by its scale. The ranges of all channels
of the unfolded model are therefore enough for every recipe, exact up to rounding. A percentile below 100 depends on all
values and not only on ranges of channels; for it the text must be read again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from int8.calibration_passes import OBSERVED_ATTENTION, LayerPasses
from int8.fakequant import attentions, linears_to_quantize, quantized_parts
from int8.fold import column_scales, fold_rules, fold_scales
from int8.layer_inputs import LayerInputs, Progress, ProgressCounter
from int8.model import decoder_of
from int8.on_device import read_in_float32
from int8.recipe import ALL_FOLDS, Activations, Fold, Insertion, Recipe, Scales
from int8.samples import Samples
from int8.statistics import Statistics

_EVERYTHING = Recipe("everything", folds=ALL_FOLDS, keep=())


@torch.no_grad()
def measure_channels(
    model: PreTrainedModel, samples: Samples, *, device: str = "cpu", progress: Progress | None = None
) -> Statistics:
    """Read the samples once. `model` is as for `calibrate`, but does not change.

    `channel_max` of the result is what calibration finds for all folds. `ranges` has the ranges of every channel,
    [2, channels], of the inputs of all linear layers and of Q, K and V; Q and K also after norm and RoPE
    ("3.self_attn.query.rope"). Raises InputError as `calibrate` does.
    """
    decoder, seen, where = decoder_of(model), Statistics(), torch.device(device)
    before = decoder.module.config._attn_implementation
    inputs = LayerInputs(decoder, samples, where, ProgressCounter(progress, len(decoder.layers) * len(samples)))
    decoder.module.set_attn_implementation(OBSERVED_ATTENTION)
    try:
        for index, layer in enumerate(decoder.layers):
            path = f"{decoder.path}.{index}"
            rules = fold_rules(layer, decoder.model_type, ALL_FOLDS)
            linears = linears_to_quantize(layer, path, _EVERYTHING)
            with read_in_float32(layer, where, path):
                LayerPasses(layer, index, str(index), path, _EVERYTHING, inputs, seen).measure_channels(rules, linears)
    finally:
        decoder.module.set_attn_implementation(before)
    return seen


@torch.no_grad()
def statistics_for(recipe: Recipe, model: PreTrainedModel, seen: Statistics) -> Statistics:
    """The statistics that `calibrate` needs for a recipe, from the result of `measure_channels` on the same model.

    There are no ranges for a percentile below 100, for which `calibrate` reads the text.
    """
    decoder = decoder_of(model)
    maxima = {key: value for key, value in seen.channel_max.items() if Fold(key.split(".")[1]) in recipe.folds}
    known = Statistics(maxima, expert_tokens=dict(seen.expert_tokens))
    if recipe.percentile < 100:
        return known
    for index, layer in enumerate(decoder.layers):
        linears = linears_to_quantize(layer, f"{decoder.path}.{index}", recipe)
        divided = _divided(layer, index, decoder.model_type, recipe, maxima, linears)
        for name in linears:
            if recipe.activations_of(name) is not Activations.STATIC:
                continue
            known.ranges[f"{index}.{name}"] = _grouped(_of(seen, f"{index}.{name}", divided.get(name)), 1)
        for attention, _ in attentions(layer):
            for part, scales in quantized_parts(recipe):
                at_rope = part != "value" and recipe.insertion is Insertion.ROPE
                key = f"{index}.self_attn.{part}"
                channels = _of(seen, f"{key}.rope" if at_rope else key, divided.get(f"self_attn.{part}"))
                known.ranges[key] = _grouped(channels, _groups(channels.shape[1], attention, scales))
    return known


def _divided(
    layer: nn.Module, index: int, model_type: str, recipe: Recipe, maxima: dict[str, Tensor], linears: list[str]
) -> dict[str, Tensor]:
    """The divisors that the folds of a recipe apply to the channels of each linear layer's input, and of V."""
    found = {}
    for rule in fold_rules(layer, model_type, recipe.folds):
        seen = maxima.get(f"{index}.{rule.fold}.{rule.producer}")
        if seen is None:
            continue
        scales = fold_scales(layer, rule, seen, set(linears), recipe.alpha)
        for path in rule.consumers:
            columns = layer.get_submodule(path).get_parameter("weight").shape[1]
            found[path] = column_scales(layer, rule, scales, columns)
        if rule.producer == "self_attn.v_proj":
            found["self_attn.value"] = scales
    return found


def _of(seen: Statistics, key: str, divided: Tensor | None) -> Tensor:
    """Ranges of channels [2, channels], divided by a fold's scales."""
    channels = seen.ranges[key]
    return channels if divided is None else channels / divided


def _groups(channels: int, attention: nn.Module, scales: Scales) -> int:
    """The number of scales of Q, K or V."""
    if scales is Scales.TENSOR:
        return 1
    width = int(attention.head_dim)  # type: ignore[arg-type]  # torch types every attribute as a module
    return channels // width if scales is Scales.HEAD else channels


def _grouped(channels: Tensor, groups: int) -> Tensor:
    """[2, groups] from [2, channels]: the lowest and the highest of the channels that share a scale."""
    low, high = channels.view(2, groups, -1)
    return torch.stack([low.amin(1), high.amax(1)])
