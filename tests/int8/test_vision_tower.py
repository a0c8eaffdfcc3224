"""Towers and mergers of vision-language models in int8 (recipes with +vision)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vision_calibration import FAMILIES, Made, require_alike

from converters.errors import InputError
from converters.resolver import Need, open_source
from int8.arithmetic import dequantize_weight, fake_quantize, quantize_weight, scale_and_zero_point, token_scales
from int8.calibrate import calibrate
from int8.checkpoint import CalibrationRecord, load, save
from int8.fakequant import FakeQuantLinear
from int8.fold import apply_fold, channels
from int8.linear import Int8Linear
from int8.model import open_model
from int8.quantize_model import quantize_model
from int8.quantize_tower import quantize_tower, tower_parts
from int8.real_int8 import to_int8
from int8.recipe import ALL_FOLDS, NAMED, Recipe, recipe
from int8.tower import encode_image
from int8.tower_inputs import image_features
from ptq.checkpoint import load as load_ptq
from ptq.checkpoint import read_summary
from ptq.grid import round_to_nearest
from ptq.quantize import quantize
from ptq.recipe import recipe as ptq_recipe
from sweep.artefact import Artefact
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.ptq_memory import sizes_of as ptq_sizes_of
from sweep.fit.torch_memory import sizes_of
from sweep.jobs.base import Site
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import Settings
from sweep.jobs.sizes import quantized_size

NO_SAMPLES = torch.empty(0, 1, dtype=torch.long)


def tower_linears(model: Any) -> dict[str, nn.Linear]:
    return {name: one for name, one in model.model.visual.named_modules() if isinstance(one, nn.Linear)}


@pytest.mark.parametrize("family", FAMILIES)
def test_folds_do_not_change_the_model(family: str, made: Callable[[str], Made]) -> None:
    """Logits change by at most 1e-4 in float32 with scales between 1/4 and 4; every linear layer but those after GELU
    reads a fold's scales."""
    model = made(family)
    folded = open_model(model.directory)
    before = {name: linear.weight.clone() for name, linear in tower_linears(folded).items()}
    expected, generator = model.logits(folded), torch.Generator().manual_seed(0)
    for part in tower_parts(folded.model, Recipe("all", folds=ALL_FOLDS, vision=True)).values():
        for rule in part.rules:
            scales = 4 ** (2 * torch.rand(channels(part.module, rule), generator=generator) - 1)
            apply_fold(part.module, rule, scales)
    assert (model.logits(folded) - expected).abs().max() <= 1e-4
    same = {name for name, linear in tower_linears(folded).items() if torch.equal(linear.weight, before[name])}
    after_gelu = ("linear_fc2", "mlp.2")
    assert all(name.endswith(after_gelu) for name in same)
    assert {name for name in before if name.endswith(after_gelu)} == same


def without_help(model: Any, made: Made, chosen: Recipe) -> None:
    """The same tower by a plain quantization with hooks: SmoothQuant's formula, one scale per tensor or per token."""
    seen: dict[str, Tensor] = {}
    linears = tower_linears(model)
    hooks = [
        one.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(name, torch.cat([seen.get(name, inputs[0]), inputs[0]]))
        )
        for name, one in linears.items()
    ]
    made.logits(model)
    for hook in hooks:
        hook.remove()
    for name, linear in linears.items():
        x = seen[name]
        linear.weight.data = dequantize_weight(*quantize_weight(linear.weight.data))
        scales = scale_and_zero_point(x.min(), x.max(), chosen.symmetric) if chosen.name == "w8a8" else None
        linear.register_forward_pre_hook(
            lambda _, inputs, scales=scales: fake_quantize(
                inputs[0], *(scales or token_scales(inputs[0], chosen.symmetric))
            )
        )


@pytest.mark.parametrize("name", ["w8a8", "w8a8-dyn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_is_a_plain_quantization_of_transformers_tower(
    family: str, name: str, made: Callable[[str], Made]
) -> None:
    model, chosen = made(family), NAMED[name]
    theirs, ours = model.whole(), open_model(model.directory)
    without_help(theirs, model, chosen)
    quantize_tower(ours.model, model.prompts, replace(chosen, vision=True), torch.device("cpu"))
    require_alike(model.logits(ours), model.logits(theirs))


@pytest.mark.parametrize("name", ["sq+vision", "sq-ph-dyn+vision", "w8a16+vision"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_tower_answers_as_before_and_in_real_int8(
    family: str, name: str, made: Callable[[str], Made], tmp_path: Path
) -> None:
    model, out, chosen = made(family), tmp_path / "out", recipe(name)
    quantized = open_model(model.directory, "bfloat16")
    float_logits, linears = model.logits(quantized), set(tower_linears(quantized))
    calibrate(quantized, model.prompts, chosen)
    save(quantized, chosen, CalibrationRecord(None), model.directory, out)
    source = open_source(model.directory, need=Need.PLAN)
    sizes = sizes_of(source, ModelShape.of(source.structure, source.tensors), chosen)
    stored = json.loads((out / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    attention = out / "int8-attention.safetensors"
    if not attention.exists():
        assert stored == sizes.file + sizes.tower
        variant = MeasuredModel("int8", Artefact.of(out), "", "", Settings(), Artefact.of(model.directory), "m")
        measured = quantized_size(variant, Site(tmp_path))
        assert measured.file_bytes - sizes.file < 100_000  # headers
        assert measured.bits_per_weight == 8 * sizes.file / sizes.weights
    loaded, known = load(out, images=True)
    assert known == chosen
    found = {path for path, one in loaded.model.visual.named_modules() if isinstance(one, FakeQuantLinear)}
    assert found == linears
    expected = model.logits(quantized)
    require_alike(model.logits(loaded), expected, 0.01)
    assert 0 < (expected - float_logits).abs().mean() < 0.9 * float_logits.std()
    exact = open_model(model.directory)  # float32: in bfloat16 the two kinds of products round differently
    calibrate(exact, model.prompts, chosen)
    expected = model.logits(exact)
    real = to_int8(exact, chosen)
    assert any(isinstance(one, Int8Linear) for one in real.model.visual.modules())
    require_alike(model.logits(real), expected, 0.01)


def test_smoothing_helps_a_tower_with_outliers(made: Callable[[str], Made]) -> None:
    """Some channels of the tower's norms are made 100 times as large, in a way that keeps the function."""
    model = made("qwen3vl")
    expected = model.logits(open_model(model.directory))

    def error(chosen: Recipe) -> float:
        changed = open_model(model.directory)
        for part in tower_parts(changed.model, Recipe("all", folds=ALL_FOLDS, vision=True)).values():
            for rule in part.rules:
                scales = torch.ones(channels(part.module, rule))
                scales[:2] = 0.01
                apply_fold(part.module, rule, scales)
        quantize_tower(changed.model, model.prompts, replace(chosen, vision=True), torch.device("cpu"))
        return float((model.logits(changed) - expected).abs().mean())

    plain, smoothed = error(NAMED["w8a8"]), error(replace(NAMED["w8a8"], folds=ALL_FOLDS, alpha=0.5))
    assert smoothed < 0.2 * plain


def test_a_recipe_with_vision_needs_a_tower_and_images(made: Callable[[str], Made], tmp_path: Path) -> None:
    model, chosen = made("qwen3vl"), recipe("sq-ph+vision")
    tokens = torch.randint(1, 500, (2, 32))
    with pytest.raises(InputError, match=r"recipe sq-ph\+vision: the vision tower is calibrated with images"):
        calibrate(open_model(model.directory), tokens, chosen)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(InputError, match=r"sq-ph\+vision: .* has no vision tower; leave \+vision out"):
        quantize_model(tmp_path, chosen, None)
    calibrate(open_model(model.directory), NO_SAMPLES, recipe("w8a8-dyn+vision"))


def test_the_name_says_that_the_tower_is_quantized(tmp_path: Path) -> None:
    assert recipe("sq+vision") == replace(NAMED["sq"], name="sq+vision", vision=True)
    assert "vision" not in NAMED["sq"].to_json()  # keys of stored results stay
    (tmp_path / "mine.toml").write_text('base = "sq"\nalpha = 0.5\n')
    mine = recipe(f"{tmp_path}/mine.toml+vision")
    assert (mine.name, mine.alpha, mine.vision) == ("mine+vision", 0.5, True)
    assert not mine.keeps("model.visual.blocks.0.attn.qkv")
    assert mine.keeps("lm_head")


@pytest.mark.parametrize("family", FAMILIES)
def test_features_part_by_part_are_those_of_the_whole_tower(family: str, made: Callable[[str], Made]) -> None:
    """Bit by bit, and every weight of the model stays where it was, in the mapped files."""
    model, cpu = made(family), torch.device("cpu")
    ours, images, settings = open_model(model.directory), model.prompts.images, model.prompts.preprocessing
    before = {name: value.data_ptr() for name, value in ours.named_parameters()}
    found = image_features(ours.model, settings, images, cpu, torch.float32)
    assert before == {name: value.data_ptr() for name, value in ours.named_parameters()}
    whole = model.whole().model
    for image, layers in zip(images, found, strict=True):
        expected = encode_image(whole, settings, image, cpu)
        assert all(torch.equal(one, other) for one, other in zip(layers, expected, strict=True))


def test_a_tower_is_calibrated_once_for_all_recipes(
    made: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is encoded; another recipe with the same folds measures only its ranges."""
    model, text = made("qwen3vl"), SimpleNamespace(name="prompts", is_cut=False)
    text.of = lambda path, count, length: model.prompts

    def quantized(name: str) -> Tensor:
        found, _ = quantize_model(model.directory, recipe(name), text, cache=tmp_path / "cache")
        return model.logits(found)

    first, other = quantized("sq-ph+vision"), quantized("sq-ph-dyn+vision")
    monkeypatch.setattr("int8.tower_inputs.TowerInputs.run", None)  # it must not be called
    assert torch.equal(quantized("sq-ph+vision"), first)
    assert torch.equal(quantized("sq-ph-dyn+vision"), other)
    with pytest.raises(TypeError):
        quantized("sq-a0.5+vision")  # another alpha has other ranges


PTQ_TEXT = SimpleNamespace(name="prompts", is_cut=False)


def quantized_by(name: str, model: Made, out: Path) -> Any:
    """The model of a checkpoint that the package ptq writes."""
    PTQ_TEXT.of = lambda path, count, length: model.prompts
    quantize(model.directory, ptq_recipe(name), PTQ_TEXT, out)
    return load_ptq(out, images=True)[0]


@pytest.mark.parametrize("family", ["qwen2vl", "qwen3vl"])
def test_ptq_rounds_the_tower_too(family: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    """Rounding to nearest, against transformers' model with the same weights; sizes are those that are predicted."""
    model = made(family)
    loaded = quantized_by("rtn:w4+vision", model, tmp_path / "out")
    theirs, chosen = model.whole(), ptq_recipe("rtn:w4+vision")
    for name, module in theirs.named_modules():
        if isinstance(module, nn.Linear) and not chosen.keeps(name):
            module.weight.data = round_to_nearest(module.weight.data, chosen.grid, torch.float32).dequantized().float()
    require_alike(model.logits(loaded), model.logits(theirs))
    bare = quantized_by("rtn:w4", model, tmp_path / "bare")
    changed = [
        name
        for name, one in tower_linears(loaded).items()
        if not torch.equal(one.weight, bare.model.visual.get_submodule(name).weight)
    ]
    assert changed == list(tower_linears(loaded))
    assert read_summary(tmp_path / "out").bits_per_weight == read_summary(tmp_path / "bare").bits_per_weight
    stored = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["metadata"]["total_size"]
    source = open_source(model.directory, need=Need.PLAN)
    assert stored < json.loads((tmp_path / "bare/model.safetensors.index.json").read_text())["metadata"]["total_size"]
    quantize(model.directory, chosen, PTQ_TEXT, tmp_path / "bf16", dtype="bfloat16")
    stored = json.loads((tmp_path / "bf16/model.safetensors.index.json").read_text())["metadata"]["total_size"]
    sizes = ptq_sizes_of(source, chosen)
    assert stored == sizes.file + sizes.tower


@pytest.mark.parametrize("name", ["gptq:w3+vision", "awq:w3+vision", "sq+gptq:w3+vision"])
def test_calibrated_methods_lose_less_in_the_tower_than_rounding(
    name: str, made: Callable[[str], Made], tmp_path: Path
) -> None:
    model = made("qwen3vl")
    whole = model.whole().model

    def error(chosen: str) -> float:
        quantized_tower = quantized_by(chosen, model, tmp_path / chosen).model
        loss = 0.0
        for image in model.prompts.images:
            one, other = (
                encode_image(base, model.prompts.preprocessing, image, torch.device("cpu"))[0]
                for base in (quantized_tower, whole)
            )
            loss += float((one - other).square().sum())
        return loss

    assert error(name) < error("rtn:w3+vision")


def test_ptq_with_vision_says_what_it_cannot_do(made: Callable[[str], Made], tmp_path: Path) -> None:
    for name in ("rot+gptq:w4+vision", "gptq+a:w4+vision"):
        with pytest.raises(InputError, match=r"is for the text decoder alone; leave .* or \+vision out"):
            ptq_recipe(name)
    assert ptq_recipe("billm+vision").name == "billm+vision"
    assert "vision" not in ptq_recipe("gptq:w4g128").to_json()  # keys of stored results stay
    text = SimpleNamespace(name="text", is_cut=True, of=lambda path, count, length: torch.ones(2, 32, dtype=torch.long))
    with pytest.raises(InputError, match="the vision tower is calibrated with images"):
        quantize(made("qwen3vl").directory, ptq_recipe("gptq:w4+vision"), text, tmp_path / "out")
    with pytest.raises(InputError, match=r"visual\.blocks\.0\.mlp\.linear_fc2 has 100 inputs, which groups of 32 "):
        quantize(made("qwen3vl").directory, ptq_recipe("rtn:w4g32+vision"), None, tmp_path / "out")
