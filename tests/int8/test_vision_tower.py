"""Towers and mergers of vision-language models in int8 (recipes with +vision)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
from sweep.artefact import Artefact
from sweep.fit.layer_bytes import ModelShape
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
    for part in tower_parts(folded.model, Recipe("all", folds=ALL_FOLDS, vision=True)):
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
    real = to_int8(loaded, chosen)
    assert any(isinstance(one, Int8Linear) for one in real.model.visual.modules())
    require_alike(model.logits(real), expected, 0.01)


def test_smoothing_helps_a_tower_with_outliers(made: Callable[[str], Made]) -> None:
    """Some channels of the tower's norms are made 100 times as large, in a way that keeps the function."""
    model = made("qwen3vl")
    expected = model.logits(open_model(model.directory))

    def error(chosen: Recipe) -> float:
        changed = open_model(model.directory)
        for part in tower_parts(changed.model, Recipe("all", folds=ALL_FOLDS, vision=True)):
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
