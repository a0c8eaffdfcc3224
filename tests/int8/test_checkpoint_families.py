"""Saved models with experts and DeltaNet layers, read by compressed-tensors, transformers and this project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import make
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from int8.calibrate import calibrate
from int8.checkpoint import CalibrationRecord, load, save
from int8.fakequant import FakeQuantLinear
from int8.model import open_model
from int8.recipe import NAMED

EXPERTS = ("qwen3moe", "qwen3next", "qwen35moe")


@torch.no_grad()
def logits(model: PreTrainedModel, given: Tensor) -> Tensor:
    return model(given).logits.float()


def tokens(seed: int) -> Tensor:
    return torch.randint(1, 500, (3, 32), generator=torch.Generator().manual_seed(seed))


def written(family: str, recipe: str, place: Path) -> tuple[PreTrainedModel, Path]:
    """A fake-quant model and the directory where it was saved, without its original."""
    source, out = make(family, place / "source"), place / "out"
    model = open_model(source)
    calibrate(model, tokens(1), NAMED[recipe])
    save(model, NAMED[recipe], CalibrationRecord(None), source, out)
    shutil.rmtree(source)
    return model, out


@pytest.mark.parametrize("recipe", ["sq-ph", "w8a8-dyn", "w8a16"])
@pytest.mark.parametrize("family", ["qwen3moe", "qwen3next", "qwen35", "qwen35, multi-modal", "qwen35moe"])
def test_a_saved_model_loads_without_the_original(tmp_path: Path, family: str, recipe: str) -> None:
    model, out = written(family, recipe, tmp_path)
    loaded, known = load(out)
    assert known == NAMED[recipe]
    assert torch.equal(logits(loaded, tokens(2)), logits(model, tokens(2)))


@pytest.mark.parametrize("recipe", ["w8a8", "w8a8-dyn"])
@pytest.mark.parametrize("family", EXPERTS)
def test_compressed_tensors_reads_the_same_experts(tmp_path: Path, family: str, recipe: str) -> None:
    """compressed-tensors reads from the config which layers are int8 and how, and computes their weights."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    model, out = written(family, recipe, tmp_path)
    config = QuantizationConfig.model_validate(json.loads((out / "config.json").read_text())["quantization_config"])
    (scheme,) = config.config_groups.values()
    stored = {name: tensor for file in out.glob("model-*.safetensors") for name, tensor in load_file(file).items()}
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, FakeQuantLinear)}
    experts = [name for name in layers if ".experts." in name]
    assert len(experts) == 3 * 6 * model.config.get_text_config().num_hidden_layers
    for name in experts:
        weight = dequantize(stored[f"{name}.weight"], stored[f"{name}.weight_scale"], args=scheme.weights)
        assert torch.equal(weight, layers[name].weight.float() * layers[name].weight_scale[:, None])
        assert (f"{name}.input_scale" in stored) == (recipe == "w8a8")
    assert scheme.input_activations.dynamic == (recipe == "w8a8-dyn")
    assert not set(config.ignore) & set(layers)
    assert {name.partition(".weight")[0] for name in stored if name.endswith(".gate.weight")} <= set(config.ignore)


@pytest.mark.parametrize("recipe", ["w8a8", "w8a8-dyn"])
def test_transformers_loads_deltanet_layers(tmp_path: Path, recipe: str) -> None:
    pytest.importorskip("compressed_tensors")
    model, out = written("qwen35", recipe, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.model.layers[0].linear_attn.in_proj_qkv.quantization_scheme.weights.num_bits == 8
    expected, found = logits(model, tokens(2)), logits(theirs, tokens(2))
    assert (expected - found).abs().median() < 0.02 * expected.std()


@pytest.mark.parametrize("family", EXPERTS)
def test_transformers_rejects_int8_experts(tmp_path: Path, family: str) -> None:
    """transformers stacks experts' weights without their scales. If this test fails, update docs/int8.md."""
    pytest.importorskip("compressed_tensors")
    _, out = written(family, "w8a8-dyn", tmp_path)
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        AutoModelForCausalLM.from_pretrained(out)
