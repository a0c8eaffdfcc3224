"""Rotations do not change what a model computes, in every architecture, and they spread outlier channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from families import make
from outliers import add_outliers
from torch import Tensor, nn
from transformers import PreTrainedModel

from converters.errors import InputError
from int8.architectures import ARCHITECTURES
from int8.fakequant import replace_linear
from int8.model import decoder_of, has_tied_head, open_model
from ptq.hadamard import hadamard
from ptq.hessian import InputSums
from ptq.linear import RoundedInputLinear
from ptq.recipe import recipe
from ptq.rotation import (
    Rotation,
    attach_rotations,
    keep_rotation,
    online_modules,
    require_rotatable,
    rotate_ends,
    rotate_layer,
    rotate_sums,
    rotation_of,
)

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"tie_word_embeddings": False}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3, biases": ("qwen3", {"attention_bias": True}),
    "qwen3, one KV head": ("qwen3", {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 32}),
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3moe": ("qwen3moe", {}),
    "qwen3moe, dense layers between": ("qwen3moe", {"decoder_sparse_step": 2, "num_hidden_layers": 2}),
    "qwen3next": ("qwen3next", {}),
    "qwen35": ("qwen35", {}),
    "qwen35, multi-modal": ("qwen35, multi-modal", {}),
    "qwen35moe": ("qwen35moe", {}),
    "qwen2moe": ("qwen2moe", {}),
    "qwen2vl": ("qwen2vl", {}),
    "qwen3vl": ("qwen3vl", {}),
    "qwen3vlmoe": ("qwen3vlmoe", {}),
}


def checkpoint(name: str, directory: Path) -> Path:
    family, settings = MODELS[name]
    if family == "qwen3":
        make_checkpoint(directory, dtype=torch.float32, tokenizer=False, **settings)
        return directory
    return make(family, directory, **settings)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PreTrainedModel]:
    """Returns a copy of a tiny model, which a test may change."""
    models: dict[str, PreTrainedModel] = {}

    def give(name: str) -> PreTrainedModel:
        if name not in models:
            models[name] = open_model(checkpoint(name, tmp_path_factory.mktemp("model")))
            for path, parameter in models[name].named_parameters():
                if path.endswith("_proj.bias"):  # 0 at first, which would hide one that is lost
                    parameter.data.uniform_(-1, 1)
        return copy.deepcopy(models[name])

    return give


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    tokens = torch.randint(0, 500, (3, 24), generator=torch.Generator().manual_seed(1))
    return model(tokens).logits.float()


def rotate(model: PreTrainedModel, rotation: Rotation) -> list[list[str]]:
    """Rotate a whole model. Returns the online modules of each layer."""
    decoder = decoder_of(model)
    if rotation is Rotation.RESIDUAL:
        rotate_ends(model)
    return [rotate_layer(layer, decoder.model_type, rotation) for layer in decoder.layers]


def seen_inputs(model: PreTrainedModel, name: str) -> Tensor:
    """The inputs of the linear layer `name` of the last decoder layer, as its hooks see them, [tokens, columns]."""
    seen: list[Tensor] = []
    layer = decoder_of(model).layers[-1]
    hook = layer.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits(model)
    hook.remove()
    return seen[0].flatten(0, -2)


def peak(x: Tensor) -> float:
    """The largest |x| over the root of the mean square."""
    return float(x.abs().max() / x.square().mean().sqrt())


@pytest.mark.parametrize("rotation", Rotation)
@pytest.mark.parametrize("name", MODELS)
def test_a_rotated_model_computes_the_same(name: str, rotation: Rotation, opened: Callable[[str], PreTrainedModel]):
    """No logit moves by more than 1e-4 in float32, and every weight of a linear layer changes."""
    model = opened(name)
    expected = logits(model)
    assert expected.std() > 0.1  # with constant logits the comparison would be meaningless
    before = {
        path: module.weight.clone()
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and "visual." not in path
    }
    rotate(model, rotation)
    assert (logits(model) - expected).abs().max() <= 1e-4
    for path, weight in before.items():
        if rotation is Rotation.INPUTS and path == "lm_head":
            continue
        assert (model.get_submodule(path).weight - weight).norm() > 0.5 * weight.norm(), path


def test_every_architecture_is_tested(opened: Callable[[str], PreTrainedModel]):
    assert {decoder_of(opened(name)).model_type for name in MODELS} == set(ARCHITECTURES)


def test_what_rotates_while_the_model_runs(opened: Callable[[str], PreTrainedModel]):
    """A gate comes between values and o_proj or out_proj in hybrid models, but not in Qwen3."""
    dense, hybrid = opened("qwen3"), opened("qwen35")
    assert rotate(dense, Rotation.RESIDUAL)[0] == ["mlp.down_proj"]
    kinds = rotate(hybrid, Rotation.RESIDUAL)
    assert sorted({path for paths in kinds for path in paths}) == [
        "linear_attn.out_proj", "mlp.down_proj", "self_attn.o_proj",
    ]  # fmt: skip
    assert rotate(opened("qwen3"), Rotation.INPUTS)[0] == [
        "input_layernorm", "post_attention_layernorm", "self_attn.o_proj", "mlp.down_proj",
    ]  # fmt: skip
    experts = rotate(opened("qwen3moe"), Rotation.RESIDUAL)[0]
    assert experts == [f"mlp.experts.{number}.down_proj" for number in range(6)]


@pytest.mark.parametrize("rotation", Rotation)
def test_a_stored_model_is_rebuilt_from_its_shapes(
    rotation: Rotation, opened: Callable[[str], PreTrainedModel], tmp_path: Path
):
    """The tied head of the original becomes a tensor of its own for Rotation.RESIDUAL only."""
    model = opened("qwen3, tied")
    expected = logits(model)
    rotate(model, rotation)
    model.save_pretrained(tmp_path)
    loaded = open_model(tmp_path)
    assert has_tied_head(loaded) == (rotation is Rotation.INPUTS)
    assert (logits(loaded) - expected).abs().max() > 0.1
    decoder = decoder_of(loaded)
    for layer in decoder.layers:
        attach_rotations(layer, online_modules(layer, decoder.model_type, rotation))
    assert (logits(loaded) - expected).abs().max() <= 1e-4


def test_attaching_twice_rotates_once(opened: Callable[[str], PreTrainedModel]):
    model = opened("qwen3")
    expected = logits(model)
    paths = rotate(model, Rotation.INPUTS)
    for layer, online in zip(decoder_of(model).layers, paths, strict=True):
        attach_rotations(layer, online)
    assert (logits(copy.deepcopy(model)) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("rotation", Rotation)
def test_a_module_that_replaces_a_linear_layer_keeps_its_rotation(
    rotation: Rotation, opened: Callable[[str], PreTrainedModel]
):
    """16 bits per activation are as good as float."""
    model = opened("qwen3")
    expected = logits(model)
    for layer, online in zip(decoder_of(model).layers, rotate(model, rotation), strict=True):
        for path in (*online, "self_attn.q_proj"):
            old = layer.get_submodule(path)
            if isinstance(old, nn.Linear):
                new = RoundedInputLinear(old, 16)
                replace_linear(layer, path, new)
                keep_rotation(old, new)
    assert (logits(model) - expected).abs().max() <= 0.01


@pytest.mark.parametrize(
    ("rotation", "inputs"),
    [
        (Rotation.RESIDUAL, ("self_attn.o_proj", "mlp.down_proj")),
        (Rotation.INPUTS, ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")),
    ],
)
def test_outlier_channels_shrink(rotation: Rotation, inputs: tuple[str, ...], opened: Callable[[str], PreTrainedModel]):
    model = opened("qwen3")
    add_outliers(model, channels=2)
    before = {name: peak(seen_inputs(model, name)) for name in inputs}
    rotate(model, rotation)
    for name in inputs:
        assert peak(seen_inputs(model, name)) < 0.7 * before[name], name


def test_outliers_of_the_residual_stream_shrink(opened: Callable[[str], PreTrainedModel]):
    model = opened("qwen3")
    model.get_input_embeddings().weight.data[:, 5] = 30.0  # the same sign for all tokens
    before = {name: peak(seen_inputs(model, name)) for name in ("self_attn.q_proj", "mlp.up_proj")}
    rotate(model, Rotation.RESIDUAL)
    for name, size in before.items():
        assert size > 8
        assert peak(seen_inputs(model, name)) < 0.5 * size


def test_linear_layers_that_read_a_norm_share_its_rotated_output(opened: Callable[[str], PreTrainedModel]):
    """One product per tensor, and the rotation of what hooks saw before."""
    model = opened("qwen3")
    plain = seen_inputs(model, "mlp.down_proj"), seen_inputs(model, "mlp.up_proj")
    rotate(model, Rotation.INPUTS)
    layer, seen = decoder_of(model).layers[-1], []
    for name in ("q_proj", "k_proj", "v_proj"):
        layer.self_attn.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert torch.allclose(seen_inputs(model, "mlp.down_proj"), hadamard(plain[0]), atol=1e-4)
    assert torch.allclose(seen_inputs(model, "mlp.up_proj"), hadamard(plain[1]), atol=1e-4)
    assert seen[0] is seen[1] is seen[2]


def test_sums_of_inputs_are_rotated_without_another_pass():
    generator = torch.Generator().manual_seed(0)
    x, unquantized = torch.randn(50, 24, generator=generator), torch.randn(50, 24, generator=generator)
    sums, expected = (InputSums.empty(24, torch.device("cpu")) for _ in range(2))
    sums.add(x, unquantized)
    rotate_sums(sums)
    expected.add(hadamard(x), hadamard(unquantized))
    assert torch.allclose(sums.second, expected.second, atol=1e-3)
    assert sums.shift is not None
    assert expected.shift is not None
    assert torch.allclose(sums.shift, expected.shift, atol=1e-3)
    assert not torch.isfinite(sums.highest).any()


def test_a_norm_with_weights_of_0_can_be_merged(opened: Callable[[str], PreTrainedModel]):
    model = opened("qwen3")
    decoder_of(model).layers[0].input_layernorm.weight.data[3] = 0
    expected = logits(model)
    rotate(model, Rotation.RESIDUAL)
    assert (logits(model) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("rotation", Rotation)
def test_a_size_without_a_matrix_is_an_error_that_names_the_module(rotation: Rotation, tmp_path: Path):
    make_checkpoint(tmp_path, dtype=torch.float32, tokenizer=False, intermediate_size=184)
    decoder = decoder_of(open_model(tmp_path))
    with pytest.raises(InputError, match=r"^model\.layers\.1\.mlp\.down_proj: no Hadamard matrix of size 184 "):
        require_rotatable(decoder.layers[1], "model.layers.1", decoder.model_type, rotation)


def test_the_rotation_of_a_recipe():
    assert rotation_of(recipe("gptq:w4g128")) is None
    assert rotation_of(recipe("rot+gptq:w4g128")) is Rotation.RESIDUAL
    assert rotation_of(recipe("sq+rot:w4a8")) is Rotation.INPUTS
    assert rotation_of(recipe("awq+rot+gptq:w3g128")) is Rotation.INPUTS
