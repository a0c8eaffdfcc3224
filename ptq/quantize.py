"""From a checkpoint directory to a quantized one, layer by layer, so that memory is needed for one layer at a time.

Each finished layer is written at once. If the process is killed, it resumes after the last layer that it wrote.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from converters.atomic import disk_errors
from converters.checkpoint import Checkpoint
from int8.architectures import require_vision_config
from int8.atomic_directory import resumable_directory
from int8.fold import fold_rules
from int8.layer_inputs import LayerInputs, Progress, ProgressCounter
from int8.mapped_model import stored_name
from int8.model import Decoder, decoder_of, open_model
from int8.on_device import in_float32
from int8.quantize_model import CalibrationSource, require_device
from int8.samples import Samples, content, sample_sizes
from int8.tokenizer import copy_processor, copy_tokenizer
from ptq.ends import round_ends
from ptq.layer import LayerWork
from ptq.layer_files import Calibration, LayerFiles
from ptq.recipe import Inputs, PtqRecipe
from ptq.rotation import Rotation, require_rotatable, rotate_ends, rotate_layer, rotation_of
from ptq.sizes import require_divisible
from ptq.tower import quantize_tower, require_images, require_tower_divisible

SAMPLES, LENGTH = 128, 2048  # of the calibration text, as in the papers
TOKENS_PER_COLUMN = 32  # tokens beyond this number per input of the widest linear layer are not read by default


def quantize(
    path: Path,
    recipe: PtqRecipe,
    text: CalibrationSource | None,
    out: Path,
    *,
    count: int | None = None,
    length: int | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    dequantized: bool = False,
    origin: str | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> None:
    """Quantize the checkpoint `path` by a recipe into the directory `out`, which appears complete or not at all.

    `count` samples of `length` tokens are cut from the text; by default SAMPLES of LENGTH, or as much as the text has
    and the model can use: its context, and TOKENS_PER_COLUMN. Layers are quantized on `device`. `dtype` is that of
    scales and of weights that stay float.

    `dequantized`: the values of the quantized weights are written as floats, too. `origin` is a text to store in the
    report. `replace`: a directory at `out` is replaced. Raises InputError for bad input, and MissingRuntime for a
    device that this machine lacks.
    """
    require_device(device)
    if recipe.vision:
        require_vision_config(path, recipe.name)
    model = open_model(path, dtype)
    decoder = decoder_of(model)
    shapes = {stored_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    require_divisible(shapes, recipe, decoder.model_type)
    if recipe.vision:
        require_tower_divisible(decoder.base, recipe)
    samples: Samples = torch.empty(0, 1, dtype=torch.long)
    calibration = Calibration()
    if recipe.needs_text:
        assert text is not None
        samples = _samples(path, text, count, length, model)
        if recipe.vision:
            require_images(samples, recipe)
        calibration = Calibration(text.name, *sample_sizes(samples))
    with Checkpoint.open(path) as checkpoint:
        form = "dequantized" if dequantized else "quantized"
        key = _key(recipe, checkpoint.fingerprint, samples, f"{model.dtype} {form} {origin}")
    rotation = rotation_of(recipe)
    if rotation is not None:
        for index, layer in enumerate(decoder.layers):
            require_rotatable(layer, f"{decoder.path}.{index}", decoder.model_type, rotation)
    if rotation is Rotation.RESIDUAL:
        rotate_ends(model)
    ends = round_ends(model, recipe)
    with resumable_directory(out, key, replace) as directory:
        files = LayerFiles(directory, recipe, decoder, dequantized=dequantized)
        _quantize_layers(decoder, recipe, samples, torch.device(device), model.dtype, files, progress)
        tower = {}
        if recipe.vision:  # last, because the decoder reads the features of the float tower
            tower = quantize_tower(decoder.base, recipe, samples, torch.device(device), model.dtype)
        files.finish(model, ends, calibration, origin, tower)
        with disk_errors(out):
            copy_tokenizer(path, directory)
            copy_processor(path, directory)


def _samples(
    path: Path, text: CalibrationSource, count: int | None, length: int | None, model: PreTrainedModel
) -> Samples:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or LENGTH
    length = min(LENGTH, context) if length is None and text.is_cut else length
    if count is not None:
        return text.of(path, count, length)
    found = text.of(path, None, length)
    layers = decoder_of(model).module.modules()
    widest = max(module.in_features for module in layers if isinstance(module, nn.Linear))
    useful = min(SAMPLES, max(1, widest * TOKENS_PER_COLUMN // sample_sizes(found)[1]))
    return found if len(found) <= useful else text.of(path, useful, length)


def _key(recipe: PtqRecipe, fingerprint: str, samples: Samples, form: str) -> str:
    """What the layers depend on, as a short text; `form` is how they are written."""
    parts = [json.dumps(recipe.to_json(), sort_keys=True), fingerprint, str(sample_sizes(samples)), form]
    return hashlib.sha256("\0".join(parts).encode() + content(samples)).hexdigest()


@torch.no_grad()
def _quantize_layers(
    decoder: Decoder,
    recipe: PtqRecipe,
    samples: Samples,
    device: torch.device,
    dtype: torch.dtype,
    files: LayerFiles,
    progress: Progress | None,
) -> None:
    inputs, unquantized = None, None
    if len(samples):
        passes = 1 + (recipe.inputs is not Inputs.FLOAT) + recipe.asymmetric_calibration
        counter = ProgressCounter(progress, passes * len(decoder.layers) * len(samples))
        inputs = LayerInputs(decoder, samples, device, counter)
        if recipe.asymmetric_calibration:
            unquantized = LayerInputs(decoder, samples, device, counter)
    for index, layer in enumerate(decoder.layers):
        path = f"{decoder.path}.{index}"
        with in_float32(layer, device, path):
            if rotation_of(recipe) is Rotation.RESIDUAL:  # its inputs are rotated already
                rotate_layer(layer, decoder.model_type, Rotation.RESIDUAL)
            if files.has(index):
                float_inputs = inputs if recipe.inputs is Inputs.FLOAT else unquantized
                if float_inputs is not None:
                    float_inputs.run(layer, index, keep=True)
                files.restore(layer, index)
                if inputs is not None and inputs is not float_inputs:
                    inputs.run(layer, index, keep=True)
            else:
                rules = fold_rules(layer, decoder.model_type, recipe.folds)
                work = LayerWork(layer, index, path, decoder.model_type, rules, recipe, dtype, inputs, unquantized)
                files.write(layer, index, work.run(), dtype)
        _release(layer)
        if inputs is None and progress is not None:
            progress(index + 1, len(decoder.layers))


def _release(layer: nn.Module) -> None:
    """Free the memory of a layer's weights, which are in a file now."""
    layer.to("meta")
