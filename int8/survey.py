"""The statistics of many recipes from one reading of the text.

Calibration reads the text for each recipe: before its folds and after them. But a fold only divides channels, so the
range of a folded input is that of its channels, each divided by its scale: the ranges of every channel of the model as
it is say all that a recipe needs, exact but for rounding. Percentiles below 100 are of values and not of channels, and
have to be read anew.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from int8.activations import LayerInputs, Progress, Steps, in_float32
from int8.fakequant import attentions, linears_to_quantize, quantized_parts
from int8.fold import column_scales, row_scales, rows_of
from int8.model import decoder_of
from int8.passes import WATCHING, LayerPasses
from int8.recipe import ALL_FOLDS, Activations, Fold, Insertion, Recipe, Scales
from int8.statistics import Statistics

_EVERYTHING = Recipe("everything", folds=ALL_FOLDS, keep=())


@torch.no_grad()
def survey(
    model: PreTrainedModel, tokens: Tensor, *, device: str = "cpu", progress: Progress | None = None
) -> Statistics:
    """Read `tokens` int64 [samples, length] once. `model` is as for `calibrate`, and stays as it is.

    `channel_max` is what calibration finds for all folds; `ranges` are of every channel ([2, channels]) of the inputs
    of all linear layers and of Q, K and V, these two also after norm and RoPE ("3.self_attn.query.rope").
    Raises InputError as `calibrate` does.
    """
    decoder, seen, where = decoder_of(model), Statistics(), torch.device(device)
    before = model.config._attn_implementation
    inputs = LayerInputs(decoder, tokens, where, Steps(progress, len(decoder.layers) * len(tokens)))
    model.set_attn_implementation(WATCHING)
    try:
        for index, layer in enumerate(decoder.layers):
            path = f"{decoder.path}.{index}"
            rows = rows_of(layer, decoder.model_type, ALL_FOLDS)
            linears = linears_to_quantize(layer, path, _EVERYTHING)
            with in_float32(layer, where, path):
                LayerPasses(layer, index, path, _EVERYTHING, inputs, seen).channels(rows, linears)
    finally:
        model.set_attn_implementation(before)
    return seen


@torch.no_grad()
def statistics_for(recipe: Recipe, model: PreTrainedModel, seen: Statistics) -> Statistics:
    """What `calibrate` needs to know for a recipe, by what `survey` saw of the same model.

    Ranges only where they are of all values: for a percentile below 100 `calibrate` reads the text for them.
    """
    decoder = decoder_of(model)
    maxima = {key: value for key, value in seen.channel_max.items() if Fold(key.split(".")[1]) in recipe.folds}
    known = Statistics(maxima, expert_tokens=dict(seen.expert_tokens))
    if recipe.percentile < 100:
        return known
    for index, layer in enumerate(decoder.layers):
        linears = linears_to_quantize(layer, f"{decoder.path}.{index}", recipe)
        divided = _divided(layer, index, decoder.model_type, recipe, maxima, linears)
        for name in linears if recipe.activations is Activations.STATIC else ():
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
    """By what the folds of a recipe divide the channels of a layer's inputs, and of V."""
    found = {}
    for row in rows_of(layer, model_type, recipe.folds):
        seen = maxima.get(f"{index}.{row.fold}.{row.producer}")
        if seen is None:
            continue
        scales = row_scales(layer, row, seen, set(linears), recipe.alpha)
        for path in row.consumers:
            columns = layer.get_submodule(path).get_parameter("weight").shape[1]
            found[path] = column_scales(layer, row, scales, columns)
        if row.producer == "self_attn.v_proj":
            found["self_attn.value"] = scales
    return found


def _of(seen: Statistics, key: str, divided: Tensor | None) -> Tensor:
    """[2, channels]"""
    channels = seen.ranges[key]
    return channels if divided is None else channels / divided


def _groups(channels: int, attention: nn.Module, scales: Scales) -> int:
    """How many scales Q, K or V have."""
    if scales is Scales.TENSOR:
        return 1
    width = int(attention.head_dim)  # type: ignore[arg-type]  # torch types every attribute as a module
    return channels // width if scales is Scales.HEAD else channels


def _grouped(channels: Tensor, groups: int) -> Tensor:
    """[2, groups] of [2, channels]: the lowest and the highest of those that share a scale."""
    low, high = channels.view(2, groups, -1)
    return torch.stack([low.amin(1), high.amax(1)])
