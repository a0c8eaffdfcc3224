"""Checkpoints as models whose weights stay in their files, against what transformers loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES, TORCH_ONLY, make
from safetensors.torch import load_file, save_file

from converters.errors import InputError
from int8.architectures import ARCHITECTURES
from int8.experts import separate_experts
from int8.mapped_model import map_model
from int8.model import has_tied_head, load_checkpoint, open_model
from presets import builtin_models

QUANTIZABLE = [
    name
    for name, family in (FAMILIES | TORCH_ONLY).items()
    if family.config().get_text_config().model_type in ARCHITECTURES
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", QUANTIZABLE)
def test_it_is_what_transformers_loads(tmp_path: Path, family: str, tied: bool) -> None:
    source = make(family, tmp_path / "model", tie_word_embeddings=tied)
    has_tower = "vision_config" in json.loads((source / "config.json").read_text())
    theirs, ours = load_checkpoint(source, images=has_tower), map_model(source)
    separate_experts(theirs)
    assert type(ours) is type(theirs)
    assert {**ours.config.to_dict(), "_name_or_path": ""} == {**theirs.config.to_dict(), "_name_or_path": ""}
    assert has_tied_head(ours) == has_tied_head(theirs) == tied
    for found, expected in (
        (dict(ours.named_parameters()), dict(theirs.named_parameters())),
        (dict(ours.named_buffers()), dict(theirs.named_buffers())),
    ):
        assert list(found) == list(expected)
        assert all(found[name].dtype == expected[name].dtype for name in found)
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_published_config_without_text_config_is_the_same_model(tmp_path: Path) -> None:
    """Qwen2.5-VL's first configs have the text model's entries at their root."""
    source = make("qwen2vl", tmp_path / "model")
    tokens, file = torch.arange(1, 40)[None], source / "config.json"
    expected = open_model(source)(tokens).logits
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config.pop("text_config"), **config}))
    assert torch.equal(open_model(source)(tokens).logits, expected)


def test_transposed_experts_in_one_tensor_are_the_same_model(tmp_path: Path) -> None:
    """Published Qwen3-VL-MoE has the experts transposed. Square tensors do not say so; the other one does."""
    for settings in ({}, {"moe_intermediate_size": 64}, {"moe_intermediate_size": 128}):
        source = make("qwen3vlmoe", tmp_path / f"model{len(list(tmp_path.iterdir()))}", **settings)
        (file,) = source.glob("*.safetensors")
        tensors = load_file(file)
        expected = {name: parameter.clone() for name, parameter in map_model(source).named_parameters()}
        turned = {
            name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
            for name, tensor in tensors.items()
        }
        save_file(turned, file, {"format": "pt"})
        found = dict(map_model(source).named_parameters())
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_another_dtype_is_converted(tmp_path: Path) -> None:
    source = make("qwen3moe", tmp_path / "model")
    theirs, ours = load_checkpoint(source, "bfloat16"), map_model(source, "bfloat16")
    assert ours.dtype == theirs.dtype == ours.config.dtype == torch.bfloat16
    tokens = torch.arange(1, 40)[None]
    assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


def stacked(source: Path) -> Path:
    """The checkpoint with one tensor for all experts, as some are published."""
    (file,) = source.glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_checkpoint(source).state_dict().items()}
    assert any(name.endswith("experts.gate_up_proj") for name in tensors)
    save_file(tensors, file, {"format": "pt"})
    return source


def test_experts_in_one_tensor_are_the_same_model(tmp_path: Path) -> None:
    source = make("qwen35moe", tmp_path / "model")
    expected = {name: parameter.clone() for name, parameter in map_model(source).named_parameters()}
    found = dict(map_model(stacked(source)).named_parameters())
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("stack", [False, True])
def test_weights_are_not_copied(tmp_path: Path, stack: bool) -> None:
    source = make("qwen3moe", tmp_path / "model")
    if stack:
        stacked(source)
    (file,) = source.glob("*.safetensors")
    model = map_model(source)
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    areas = [[int(end, 16) for end in line[0].split("-")] for line in mapped]
    assert areas
    for name, parameter in model.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in areas), name


def test_a_head_that_equals_the_embeddings_is_tied_only_if_the_config_says_so(tmp_path: Path) -> None:
    source = make("qwen3moe", tmp_path / "model", tie_word_embeddings=True)
    (file,) = source.glob("*.safetensors")
    tensors = load_file(file)
    embeddings = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": embeddings.clone()}, file, {"format": "pt"})
    assert has_tied_head(map_model(source))
    save_file({**tensors, "lm_head.weight": embeddings + 1}, file, {"format": "pt"})
    assert not has_tied_head(map_model(source))


def test_a_tensor_of_another_shape_is_rejected(tmp_path: Path) -> None:
    source = stacked(make("qwen35moe", tmp_path / "model"))
    (file,) = source.glob("*.safetensors")
    tensors = load_file(file)
    for name in ("model.layers.1.mlp.gate.weight", "model.layers.1.mlp.experts.down_proj"):
        save_file({**tensors, name: tensors[name][:, :4].contiguous()}, file, {"format": "pt"})
        with pytest.raises(InputError, match=r"tensor 'model.layers.1.mlp.*' has the shape .*; the config says \["):
            map_model(source)


def test_a_layer_with_a_tensor_that_the_model_has_not_is_rejected(tmp_path: Path) -> None:
    """A config of another architecture would compute another model."""
    source = make("qwen3moe", tmp_path / "model")
    (file,) = source.glob("*.safetensors")
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "visual.blocks.0.weight": torch.ones(4)}
    tensors = {**load_file(file), **more}
    save_file(tensors, file, {"format": "pt"})
    map_model(source)
    save_file({**tensors, "model.layers.1.self_attn.q_proj.bias": torch.ones(4)}, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"'model\.layers\.1\.self_attn\.q_proj\.bias' is not part of the model"):
        map_model(source)


def test_a_built_in_model_answers_alike() -> None:
    tokens = torch.arange(5, 60)[None]
    for builtin in builtin_models().values():
        with torch.no_grad():
            assert torch.equal(
                map_model(builtin.directory)(tokens).logits, load_checkpoint(builtin.directory)(tokens).logits
            )
