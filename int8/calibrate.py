"""Calibration: a model reads samples layer by layer; each layer is folded and quantized before the next one is read.

Only the samples' inputs to the current layer are kept, not all activations. The layer reads them once to measure the
channels for the folds, and again, folded, to measure the ranges of the quantizers. So a device needs memory for only
one layer (in float32) and one batch.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from int8.calibrate_stack import StackCalibration
from int8.calibration_passes import OBSERVED_ATTENTION
from int8.fakequant import attach_attention, require_attention, require_stacks
from int8.layer_inputs import LayerInputs, Progress, ProgressCounter
from int8.model import decoder_of
from int8.quantize_tower import quantize_tower, require_tower
from int8.recipe import Recipe
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
    require_stacks(model, recipe)
    if recipe.vision:
        require_tower(decoder.base, samples, recipe)
    statistics = Statistics() if known is None else known
    work = StackCalibration(decoder, recipe, torch.device(device), statistics)
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
