"""Calibration of a speech model: its encoder's layers, the fold between the stacks, then its decoder's layers.

The decoder reads the known transcripts (teacher forcing), with the encoder's float outputs. All statistics are those of
the float model, and only one layer at a time is on the device.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from converters.errors import InputError
from int8.architectures import ENCODER_OUTPUT, FoldRule
from int8.calibrate_stack import StackCalibration
from int8.calibration_passes import OBSERVED_ATTENTION
from int8.fakequant import attach_attention, require_attention, require_stacks, use_attention
from int8.fold import apply_fold, fold_scales
from int8.layer_inputs import Progress, ProgressCounter
from int8.observers import ChannelMaxObserver, require_finite
from int8.on_device import read_in_float32
from int8.recipe import Recipe, Stacks
from int8.samples import Samples
from int8.speech_inputs import SpeechInputs
from int8.speech_model import DECODER, ENCODER, embedded_features, embedded_tokens, stack_of
from int8.speech_samples import SpeechWindows
from int8.statistics import Statistics

OUTPUT_KEY = f"{ENCODER}.{ENCODER_OUTPUT.fold}.layer_norm"
"""The key of the statistics of the fold between the stacks."""


@torch.no_grad()
def calibrate_speech(
    model: PreTrainedModel,
    samples: Samples,
    recipe: Recipe,
    *,
    device: str = "cpu",
    known: Statistics | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Fold and fake-quantize `model` (on the CPU) in place, calibrated on windows of speech. See `calibrate`.

    Raises InputError as `calibrate` does, and if the recipe needs speech but `samples` is a text.
    """
    require_attention(model, recipe)
    require_stacks(model, recipe)
    if recipe.vision:
        raise InputError(f"recipe {recipe.name}: this model has no vision tower; leave +vision out")
    statistics = Statistics() if known is None else known
    where = torch.device(device)
    stacks = {name: StackCalibration(stack_of(model, name), recipe, where, statistics) for name in (ENCODER, DECODER)}
    passes = max(stack.smooths + stack.measures for stack in stacks.values())
    if passes and not isinstance(samples, SpeechWindows):
        raise InputError(f"recipe {recipe.name}: a speech model is calibrated with speech; give a directory of it")
    windows = samples.windows if passes and isinstance(samples, SpeechWindows) else ()
    layers = sum(len(stack.decoder.layers) for stack in stacks.values())
    steps = ProgressCounter(progress, max(passes, 1) * layers * len(windows))
    before = model.config._attn_implementation
    use_attention(model, OBSERVED_ATTENTION)
    try:
        with read_in_float32(model.get_submodule("model.encoder.conv1"), where, "model.encoder.conv1"):
            hidden = [_embedded(model, torch.from_numpy(one.features), where) for one in windows]
        encoder = SpeechInputs(hidden, None, where, steps)
        _run_stack(stacks[ENCODER], encoder, Stacks.ENCODER, passes)
        states = _states(model, encoder, stacks[DECODER], statistics)
        tokens = [embedded_tokens(model, torch.tensor([one.tokens])).float() for one in windows]
        _run_stack(stacks[DECODER], SpeechInputs(tokens, states, where, steps), Stacks.DECODER, passes)
    finally:
        use_attention(model, before)
    attach_attention(model, recipe)
    return statistics


def _embedded(model: PreTrainedModel, features: Tensor, device: torch.device) -> Tensor:
    """The input of the encoder's first layer, float32 [1, positions, width]."""
    encoder = model.get_submodule("model.encoder")
    own = encoder.get_submodule("conv2"), encoder.get_submodule("embed_positions")
    with read_in_float32(own[0], device, "model.encoder.conv2"), read_in_float32(own[1], device, "positions"):
        return embedded_features(model, features[None].to(device)).cpu()


def _run_stack(work: StackCalibration, inputs: SpeechInputs, stack: Stacks, passes: int) -> None:
    """Quantize the layers of a stack. If the recipe leaves it float, it only reads the windows."""
    recipe, decoder = work.recipe, work.decoder
    takes = recipe.stacks in (Stacks.BOTH, stack)
    work.inputs = inputs if passes and takes else None
    for index, layer in enumerate(decoder.layers):
        if takes:
            work.layer(index)
        elif passes:
            with read_in_float32(layer, work.device, f"{decoder.path}.{index}"):
                inputs.run(layer, index, keep=True)


def _states(
    model: PreTrainedModel, encoder: SpeechInputs, decoder: StackCalibration, statistics: Statistics
) -> list[Tensor]:
    """The encoder's outputs, after the fold into the cross-attention of all decoder layers."""
    base, recipe = model.base_model, decoder.recipe
    norm = base.get_submodule(ENCODER_OUTPUT.producer)
    folds = ENCODER_OUTPUT.fold in recipe.folds and recipe.stacks in (Stacks.BOTH, Stacks.DECODER)
    if folds and decoder.smooths and encoder.hidden:
        seen = ChannelMaxObserver()
        with read_in_float32(norm, torch.device("cpu"), "model.encoder.layer_norm"):
            for hidden in encoder.hidden:
                seen.observe(norm(hidden))
        assert seen.value is not None
        require_finite(seen.value, "model.encoder.layer_norm")
        statistics.channel_max[OUTPUT_KEY] = seen.value
    if folds and OUTPUT_KEY in statistics.channel_max:
        rule = output_rule(len(decoder.decoder.layers))
        quantized = {path for path in rule.consumers if not recipe.keeps(f"model.{path}")}
        apply_fold(base, rule, fold_scales(base, rule, statistics.channel_max[OUTPUT_KEY], quantized, recipe.alpha))
    with read_in_float32(norm, torch.device("cpu"), "model.encoder.layer_norm"):
        return [norm(hidden) for hidden in encoder.hidden]


def output_rule(layers: int) -> FoldRule:
    """The fold from the encoder's last norm, with its consumers in this many decoder layers."""
    consumers = (path.replace("*", str(i)) for i in range(layers) for path in ENCODER_OUTPUT.consumers)
    return replace(ENCODER_OUTPUT, consumers=tuple(consumers))
