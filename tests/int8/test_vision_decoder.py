"""The decoders of vision-language models in int8, against transformers' whole model on the same images and text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from vision_calibration import FAMILIES, Made, require_alike

from converters.errors import InputError
from int8.arithmetic import dequantize_weight, fake_quantize, quantize_weight, token_scales
from int8.calibrate import calibrate
from int8.channel_statistics import measure_channels
from int8.checkpoint import CalibrationRecord, load, save
from int8.fakequant import FakeQuantLinear
from int8.model import decoder_of, open_model
from int8.real_int8 import to_int8
from int8.recipe import NAMED, Recipe
from ptq.checkpoint import load as load_ptq
from ptq.quantize import quantize
from ptq.recipe import recipe as ptq_recipe
from ptq.rotation import Rotation, rotate_ends, rotate_layer


def seen_by_hooks(model: PreTrainedModel, made: Made) -> dict[str, Tensor]:
    """The lowest and highest value of each channel [2, channels] of the input of every linear layer of the decoder."""
    seen: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        if x.numel():
            ends = torch.stack(torch.aminmax(x.flatten(0, -2), dim=0))
            old = seen.get(name, ends)
            seen[name] = torch.stack([torch.minimum(old[0], ends[0]), torch.maximum(old[1], ends[1])])

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=f"{index}.{name}": see(name, inputs[0]))
        for index, layer in enumerate(decoder_of(model).layers)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]
    made.logits(model)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_the_whole_model_on_the_same_images(family: str, made: Any) -> None:
    """M-RoPE positions, features of images and those of DeepStack must be in their places, layer by layer."""
    model = made(family)
    expected = seen_by_hooks(model.whole(), model)
    found = measure_channels(open_model(model.directory), model.prompts)
    counted = {key: count for key, count in found.expert_tokens.items() if count >= 16}  # others read more tokens
    compared = 0
    for name, ends in expected.items():
        index, _, path = name.partition(".")
        if ".experts." not in name or f"{index}.{path.split('.')[2]}" in counted:
            assert torch.allclose(found.ranges[name], ends, atol=1e-4, rtol=1e-4), name
            compared += 1
    assert compared >= 7 * 2
    tokens = sum(len(prompt.tokens) for prompt in model.prompts.prompts)
    per_layer = {key.partition(".")[0]: 0 for key in found.expert_tokens}
    for key, count in found.expert_tokens.items():
        per_layer[key.partition(".")[0]] += count
    assert set(per_layer.values()) <= {2 * tokens}  # each token has two experts


def test_wrong_positions_or_features_would_be_noticed(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("qwen3vl")
    expected = seen_by_hooks(model.whole(), model)["1.self_attn.q_proj"]
    monkeypatch.setattr("int8.samples.Batch.after_layer", lambda self, index, out: out)
    found = measure_channels(open_model(model.directory), model.prompts).ranges["1.self_attn.q_proj"]
    assert (found - expected).abs().max() > 0.05


@pytest.mark.parametrize("recipe", ["sq", "sq-ph", "w8a8-dyn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_decoder_answers_about_images_as_before_and_in_real_int8(
    family: str, recipe: str, made: Any, tmp_path: Path
) -> None:
    model, out = made(family), tmp_path / "out"
    quantized = open_model(model.directory)
    tower = {name: value.clone() for name, value in quantized.named_parameters() if "visual." in name}
    calibrate(quantized, model.prompts, NAMED[recipe])
    assert not any(isinstance(one, FakeQuantLinear) for one in quantized.model.visual.modules())
    save(quantized, NAMED[recipe], CalibrationRecord(None), model.directory, out)
    assert (out / "preprocessor_config.json").read_bytes() == (
        model.directory / "preprocessor_config.json"
    ).read_bytes()
    loaded, _ = load(out, images=True)
    stored = dict(loaded.named_parameters())
    assert tower
    assert all(torch.equal(stored[name], value) for name, value in tower.items())
    expected = model.logits(quantized)
    require_alike(model.logits(loaded), expected)
    text_only, _ = load(out)
    assert not hasattr(text_only.model, "visual")
    tokens = torch.tensor([model.prompts.prompts[-1].tokens])
    with torch.inference_mode():
        require_alike(text_only(tokens).logits, loaded(tokens).logits)
    require_alike(model.logits(to_int8(loaded, NAMED[recipe])), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_fake_quant_is_a_plain_quantization_of_transformers_model(family: str, made: Any) -> None:
    model, recipe = made(family), NAMED["w8a8-dyn"]
    theirs = model.whole()
    for layer in decoder_of(theirs).layers:
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear) and not recipe.keeps(f"model.layers.0.{name}"):
                module.weight.data = dequantize_weight(*quantize_weight(module.weight.data))
                module.register_forward_pre_hook(
                    lambda _, inputs: fake_quantize(inputs[0], *token_scales(inputs[0], recipe.symmetric))
                )
    ours = open_model(model.directory)
    calibrate(ours, torch.empty(0, 1, dtype=torch.long), recipe)
    require_alike(model.logits(ours), model.logits(theirs))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rotated_residual_stream_takes_rotated_features_of_images(family: str, made: Any) -> None:
    model = made(family)
    rotated = open_model(model.directory)
    expected, decoder = model.logits(rotated), decoder_of(rotated)
    rotate_ends(rotated)
    for layer in decoder.layers:
        rotate_layer(layer, decoder.model_type, Rotation.RESIDUAL)
    assert (model.logits(rotated) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("recipe", ["gptq:w4g16", "rot+gptq:w4a8", "gptq+a:w4g16"])
def test_ptq_quantizes_a_decoder_with_prompts_that_have_images(made: Any, tmp_path: Path, recipe: str) -> None:
    model, out, text = made("qwen3vl"), tmp_path / "out", SimpleNamespace(name="prompts", is_cut=False)
    text.of = lambda path, count, length: model.prompts
    quantize(model.directory, ptq_recipe(recipe), text, out)
    report = json.loads((out / "ptq.json").read_text())
    assert report["calibration"]["samples"] == len(model.prompts)
    linears = report["layers"]["model.language_model.layers.1"]["linears"]
    assert {one["tokens"] for one in linears.values()} == {sum(len(one.tokens) for one in model.prompts.prompts)}
    loaded, _ = load_ptq(out, images=True)
    expected = model.logits(model.whole())
    assert (model.logits(loaded) - expected).abs().mean() < 0.5 * expected.std()
    assert (out / "preprocessor_config.json").is_file()


def test_patterns_name_layers_as_in_a_text_model(made: Any) -> None:
    recipe = replace(Recipe("kept"), keep=("model.layers.1.*", "visual.*", "*.visual.*", "lm_head"))
    ours = open_model(made("qwen3vl").directory)
    calibrate(ours, made("qwen3vl").prompts, recipe)
    quantized = {name for name, module in ours.named_modules() if isinstance(module, FakeQuantLinear)}
    assert {name.split(".")[3] for name in quantized} == {"0", "2"}


def test_a_quantized_checkpoint_without_a_tower_takes_no_images(made: Any, tmp_path: Path) -> None:
    quantized, out = open_model(made("qwen3vl").directory), tmp_path / "out"
    del quantized.model.visual
    calibrate(quantized, torch.empty(0, 1, dtype=torch.long), NAMED["w8a16"])
    save(quantized, NAMED["w8a16"], CalibrationRecord(None), made("qwen3vl").directory, out)
    with pytest.raises(InputError, match="no vision tower, so it takes no images"):
        load(out, images=True)
