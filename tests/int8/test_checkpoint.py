"""Saved models load without the original, by this project's loader and by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import presets
from converters.errors import InputError
from int8.arithmetic import QuantizedLinear
from int8.calibrate import calibrate
from int8.checkpoint import ATTENTION_FILE, RECIPE_FILE, CalibrationRecord, load, save
from int8.compressed_tensors import from_file, to_file
from int8.fakequant import FakeQuantLinear
from int8.model import open_model
from int8.recipe import NAMED, Recipe, Scales

Fresh = Callable[..., PreTrainedModel]
# Recipes without int8 Q, K or V, which compressed-tensors can express completely.
EXPRESSIBLE = {
    "w8a8": NAMED["w8a8"],
    "w8a8, symmetric": replace(NAMED["w8a8"], symmetric=True),
    "w8a8-dyn": NAMED["w8a8-dyn"],
    "w8a16": NAMED["w8a16"],
    "smooth": replace(NAMED["sq-ph"], query_key=Scales.FLOAT, value=Scales.FLOAT),
}


def saved(model: PreTrainedModel, recipe: Recipe, tokens: Tensor, out: Path, name: str = "micro") -> Path:
    statistics = calibrate(model, tokens, recipe)
    calibration = CalibrationRecord("a text", *tokens.shape, statistics.expert_tokens)
    save(model, recipe, calibration, presets.builtin_models()[name].directory, out)
    return out


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return model(tokens).logits.float()


@pytest.mark.parametrize("recipe", EXPRESSIBLE.values(), ids=EXPRESSIBLE)
def test_transformers_loads_a_saved_model_as_compressed_tensors(
    fresh: Fresh, calibration_tokens: Tensor, tmp_path: Path, recipe: Recipe
):
    pytest.importorskip("compressed_tensors")
    model = fresh()
    out = saved(model, recipe, calibration_tokens[:4, :64], tmp_path / "out")
    tokens = calibration_tokens[6:8, :64]
    theirs = AutoModelForCausalLM.from_pretrained(out)
    scheme = theirs.model.layers[0].mlp.up_proj.quantization_scheme
    assert scheme.weights.num_bits == 8
    expected, found = logits(model, tokens), logits(theirs, tokens)
    # a value rounded to the other side changes later values, by less than quantization does
    plain = (logits(fresh(), tokens) - found).abs()
    assert (expected - found).abs().median() < plain.median() / 3
    assert (expected - found).abs().mean() < plain.mean() / 2


@pytest.mark.parametrize("columns", [32, 33, 34, 35])
def test_packed_weights_equal_those_of_compressed_tensors(columns: int):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    generator = torch.Generator().manual_seed(columns)
    weight = torch.randint(-128, 128, (5, columns), generator=generator, dtype=torch.int8)
    packed = to_file(QuantizedLinear(weight, torch.ones(5)), NAMED["w8a16"])["weight_packed"]
    assert torch.equal(packed, helpers.pack_to_int32(weight, 8))
    stored = {
        f"x.{key}": tensor for key, tensor in to_file(QuantizedLinear(weight, torch.ones(5)), NAMED["w8a16"]).items()
    }
    layer = from_file(stored, "x", torch.nn.Linear(columns, 5, bias=False), NAMED["w8a16"], Path("a file"))
    assert torch.equal(layer.weight, weight)
    assert not stored


@pytest.mark.parametrize("name", ["micro", "micro-moe"])
@pytest.mark.parametrize("recipe", ["sq", "sq-ph-dyn", "w8a16"])
def test_a_saved_model_loads_without_the_original(
    fresh: Fresh, calibration_tokens: Tensor, tmp_path: Path, name: str, recipe: str
):
    model, tokens = fresh(name), calibration_tokens[:3, :32]
    out = saved(model, NAMED[recipe], tokens, tmp_path / "out", name)
    loaded, known = load(out)
    assert known == NAMED[recipe]
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    assert (out / ATTENTION_FILE).exists() == NAMED[recipe].quantizes_attention
    stored = {key: tensor for file in out.glob("model-*.safetensors") for key, tensor in load_file(file).items()}
    packed = sum(tensor.nbytes for key, tensor in stored.items() if key.endswith("weight_packed"))
    plain = sum(tensor.nbytes for tensor in stored.values() if tensor.dtype == torch.int8 and tensor.ndim == 2)
    linears = [module for module in model.modules() if isinstance(module, FakeQuantLinear)]
    assert packed + plain == sum(linear.weight.numel() for linear in linears)  # one byte per weight
    about = json.loads((out / RECIPE_FILE).read_text())
    assert (about["calibration"]["samples"], about["calibration"]["length"]) == (3, 32)
    routed = 4 * 2 * tokens.numel() if name == "micro-moe" and recipe != "w8a16" else 0  # layers, experts per token
    assert sum((about["calibration"]["expert_tokens"] or {}).values()) == routed


def test_everybody_may_read_a_saved_model(fresh: Fresh, calibration_tokens: Tensor, tmp_path: Path):
    out = saved(fresh(), NAMED["sq-ph-dyn"], calibration_tokens[:4, :64], tmp_path / "out")
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert {path.name: oct(path.stat().st_mode) for path in out.iterdir()} == {
        path.name: oct(ordinary.stat().st_mode) for path in out.iterdir()
    }


def test_a_saved_model_is_rejected_as_input_for_quantization(fresh: Fresh, tmp_path: Path):
    out = saved(fresh(), NAMED["w8a16"], torch.empty(0, 1, dtype=torch.long), tmp_path / "out")
    with pytest.raises(InputError, match="already quantized"):
        open_model(out)


def test_existing_directories_are_kept_and_no_partial_directory_is_left(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, recipe, source = fresh(), NAMED["w8a16"], presets.builtin_models()["micro"].directory
    calibrate(model, torch.empty(0, 1, dtype=torch.long), recipe)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        save(model, recipe, CalibrationRecord(None), source, full)
    assert [file.name for file in full.iterdir()] == ["mine.txt"]
    file = tmp_path / "file"
    file.write_text("mine")
    for place, said in ((file, "exists already"), (file / "below", "cannot be created")):
        with pytest.raises(InputError, match=said):
            save(model, recipe, CalibrationRecord(None), source, place)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("int8.tokenizer.shutil.copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(model, recipe, CalibrationRecord(None), source, tmp_path / "half")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_damaged_directories_are_rejected(fresh: Fresh, calibration_tokens: Tensor, tmp_path: Path):
    out = saved(fresh(), NAMED["sq-ph"], calibration_tokens[:2, :32], tmp_path / "out")
    with pytest.raises(InputError, match=r"int8\.json"):
        load(presets.builtin_models()["micro"].directory)
    tensors_file = next(out.glob("model-*.safetensors"))
    whole, attention = load_file(tensors_file), load_file(out / ATTENTION_FILE)
    key = "model.layers.1.mlp.up_proj"
    damages = {
        "is missing": {f"{key}.input_scale": None},
        "by the config": {f"{key}.weight": whole[f"{key}.weight"][:5]},
        "torch.int8 is needed": {f"{key}.weight": whole[f"{key}.weight"].float()},
        "contradict the config": {"model.norm.weight": torch.ones(3)},
        "is not part of the model": {"model.layers.77.mlp.up_proj.weight": torch.ones(3)},
    }
    index = json.loads((out / "model.safetensors.index.json").read_text())
    for said, change in damages.items():
        tensors = {name: tensor for name, tensor in {**whole, **change}.items() if tensor is not None}
        save_file(tensors, tensors_file)
        names = dict.fromkeys(tensors, tensors_file.name)
        (out / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": names}))
        with pytest.raises(InputError, match=said):
            load(out)
    save_file(whole, tensors_file)
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({name: tensor for name, tensor in attention.items() if "key" not in name}, out / ATTENTION_FILE)
    with pytest.raises(InputError, match=r"key_quantizer\.scale' is missing"):
        load(out)
    (out / ATTENTION_FILE).write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="cannot be read"):
        load(out)
    (out / RECIPE_FILE).write_text('{"recipe": {"name": "x", "alpha": 7}}')
    with pytest.raises(InputError, match="'alpha' is 7"):
        load(out)
