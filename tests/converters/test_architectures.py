"""For every family and shape, an F32 file in llama.cpp gives the logits of transformers in float32."""

import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from checkpoints import make_tokenizer
from safetensors.torch import load_file
from test_logits import llama_cpp_logits

from converters.errors import InputError
from converters.export import export
from converters.llamacpp.reader import read_header
from converters.resolver import open_source

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen2, tied, three layers": {"tie_word_embeddings": True, "num_hidden_layers": 3},
    "qwen2, long context by YaRN": {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128,
        },
    },
    "qwen2moe": {},
    "qwen2moe, multi-head, sharded": {"num_key_value_heads": 4, "shard": "100KB"},
    "qwen3moe": {},
    "qwen3moe, multi-head, tied, three layers": {
        "num_key_value_heads": 4, "tie_word_embeddings": True, "num_hidden_layers": 3,
    },
    "qwen3moe, sharded": {"shard": "100KB"},
    "qwen3next": {},
    "qwen3next, one value head a key head, five layers": {"linear_num_value_heads": 2, "num_hidden_layers": 5},
    "qwen35": {},
    "qwen35, one value head a key head, tied": {"linear_num_value_heads": 2, "tie_word_embeddings": True},
    "qwen35, three value heads a key head, five layers": {
        "linear_num_value_heads": 6, "num_hidden_layers": 5, "num_key_value_heads": 1,
    },
    "qwen35, other layer types": {
        "num_hidden_layers": 3, "layer_types": ["full_attention", "linear_attention", "full_attention"],
    },
    "qwen35, multi-modal": {},
    "qwen35moe": {},
    "qwen35moe, four value heads a key head, multi-head": {"linear_num_value_heads": 8, "num_key_value_heads": 4},
    "qwen35moe, multi-modal": {"tie_word_embeddings": True},
    "qwen3vl": {},
    "qwen3vlmoe": {},
    "qwen3vlmoe, square gate_up_proj": {"moe_intermediate_size": 64},
    "qwen3vlmoe, square down_proj": {"moe_intermediate_size": 128},
    "qwen2vl": {},
    "qwen2vl, tied, three layers": {"tie_word_embeddings": True, "num_hidden_layers": 3},
}  # fmt: skip


def family_of(name: str) -> str:
    """The family with the longest name that begins the name of the case."""
    return max((family for family in families.FAMILIES if name.startswith(family)), key=len)


def transformers_logits(family: str, directory: Path, tokens: list[int]) -> np.ndarray:
    model = families.FAMILIES[family].model.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_those_of_transformers(tmp_path: Path, name: str) -> None:
    directory, family = tmp_path / "model", family_of(name)
    families.make(family, directory, **SHAPES[name])
    make_tokenizer(directory)
    export(open_source(directory), {"F32": tmp_path / "f32.gguf"}, threads=1)
    tokens = np.random.default_rng(0).integers(0, 512, 150).tolist()
    ours, theirs = llama_cpp_logits(tmp_path / "f32.gguf", tokens), transformers_logits(family, directory, tokens)
    spread = theirs.std()
    assert spread > 0.3, "logits without spread prove nothing"
    assert np.abs(ours - theirs).max() <= 1e-3 * spread
    second, first = np.sort(theirs, axis=1)[:, -2:].T
    clear = first - second > 2e-3 * spread  # smaller differences are ties at this precision
    assert clear.mean() > 0.95
    assert (ours.argmax(1) == theirs.argmax(1))[clear].all()


def bytes_of(directory: Path, target: Path, **options: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and data of every tensor of the F32 file."""
    make_tokenizer(directory)
    export(open_source(directory, **options), {"F32": target}, threads=1)
    header, data = read_header(target), target.read_bytes()
    return {t.name: (t.type.name, t.shape, data[header.data_offset + t.offset :][: t.nbytes]) for t in header.tensors}


@pytest.mark.parametrize("family", ["qwen2moe", "qwen3moe", "qwen3next", "qwen35moe", "qwen35moe, multi-modal"])
def test_fused_experts_are_the_same_model(tmp_path: Path, family: str) -> None:
    apart = bytes_of(families.make(family, tmp_path / "model"), tmp_path / "apart.gguf")
    fused = bytes_of(families.rewrite(tmp_path / "model", families.fuse_experts), tmp_path / "fused.gguf")
    assert fused == apart


# The width of the model is 128: with 64, gate_up_proj is square, and with 128, down_proj is.
@pytest.mark.parametrize("inner", [96, 64, 128])
def test_transposed_experts_are_the_same_model(tmp_path: Path, inner: int) -> None:
    plain = bytes_of(families.make("qwen3vlmoe", tmp_path / "model", moe_intermediate_size=inner), tmp_path / "a.gguf")
    expected = load_file(tmp_path / "model" / "model.safetensors")
    down = expected["model.language_model.layers.1.mlp.experts.down_proj"][2]
    np.testing.assert_array_equal(experts_of(plain, "blk.1.ffn_down_exps.weight")[2], down.numpy())
    turned = bytes_of(families.rewrite(tmp_path / "model", families.transpose_experts), tmp_path / "turned.gguf")
    assert turned == plain


def experts_of(tensors: dict[str, tuple[str, tuple[int, ...], bytes]], name: str) -> np.ndarray:
    _, shape, data = tensors[name]
    return np.frombuffer(data, np.float32).reshape(shape)


def test_experts_that_are_transposed_in_one_layer_only_are_rejected(tmp_path: Path) -> None:
    families.make("qwen3vlmoe", tmp_path / "model", moe_intermediate_size=64)

    def first_layer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        turned = families.transpose_experts(tensors)
        return {name: (turned if ".layers.0." in name else tensors)[name] for name in tensors}

    families.rewrite(tmp_path / "model", first_layer)
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / "model")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'model' / 'config.json'}: fused experts are either")
    assert "gate_up_proj (6, 128, 128) and down_proj (6, 128, 64) (as transformers saves them)" in message
    assert "gate_up_proj (6, 128, 128) and down_proj (6, 64, 128) (as published)" in message
    assert "model.layers.1.mlp.experts.down_proj (6, 128, 64) fits only the first" in message
    assert "model.layers.0.mlp.experts.down_proj (6, 64, 128) only the second" in message


@pytest.mark.parametrize("family", ["qwen3next", "qwen35", "qwen35moe"])
def test_mtp_layers_are_exported_or_left_out(tmp_path: Path, family: str) -> None:
    directory = families.make(family, tmp_path / "model")
    before = bytes_of(directory, tmp_path / "before.gguf")
    families.rewrite(directory, families.add_mtp)
    without = bytes_of(directory, tmp_path / "without.gguf", mtp=False)
    assert without == before
    whole = bytes_of(directory, tmp_path / "with.gguf")
    assert {name: whole[name] for name in before} == before
    extra = {name for name in whole if name not in before}
    assert {name.split(".")[1] for name in extra} == {"4"}
    assert {name for name in extra if "nextn" in name} == {
        f"blk.4.nextn.{name}.weight" for name in ("eh_proj", "enorm", "hnorm", "shared_head_norm")
    }
    metadata = read_header(tmp_path / "with.gguf").metadata
    prefix = metadata["general.architecture"].value
    assert metadata[f"{prefix}.nextn_predict_layers"].value == 1
    assert metadata[f"{prefix}.block_count"].value == 5
    assert metadata[f"{prefix}.attention.recurrent_layers"].value == [True, True, True, False, False]
    tokens = np.random.default_rng(0).integers(0, 512, 20).tolist()
    assert (
        llama_cpp_logits(tmp_path / "with.gguf", tokens) == llama_cpp_logits(tmp_path / "before.gguf", tokens)
    ).all()


BAD_CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "router weights scaled": ("qwen2moe", {"norm_topk_prob": True}, "norm_topk_prob is True"),
    "output from the embeddings": ("qwen2moe", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    "attention without biases": ("qwen2moe", {"qkv_bias": False}, "qkv_bias is False"),
    "heads of another length": ("qwen2", {"head_dim": 64}, "head_dim is 64; llama.cpp supports only hidden_size"),
    "router weights not scaled": ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob is False"),
    "dense layers among experts": ("qwen3moe", {"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\]"),
    "experts in every other layer": ("qwen3next", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
    "more experts chosen than there are": ("qwen35moe", {"num_experts_per_tok": 7}, "num_experts_per_tok is 7"),
    "too few layer types": ("qwen35", {"layer_types": ["linear_attention"] * 3}, "layer_types has 3 entries"),
    "an unknown layer type": (
        "qwen35", {"layer_types": ["sliding_attention", *["linear_attention"] * 3]}, "'sliding_attention'",
    ),
    "value heads not divisible": ("qwen3next", {"linear_num_value_heads": 3}, "is not a multiple of linear_num_key"),
    "value heads of another length": ("qwen35", {"linear_value_head_dim": 64}, "only one length for both"),
    "all of the head rotated and more": ("qwen35", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
    "an epsilon that llama.cpp does not read": ("qwen2vl", {"rms_norm_eps": 1e-4}, "rms_norm_eps is 0.0001"),
    "GPTQ": ("qwen3moe", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized by gptq"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_configs_that_llama_cpp_cannot_express_are_rejected_by_key(tmp_path: Path, case: str) -> None:
    family, change, message = BAD_CONFIGS[case]
    directory = families.make(family, tmp_path / "model")
    file = directory / "config.json"
    config = json.loads(file.read_text())
    inner = config.get("text_config", config)
    if "partial_rotary_factor" in change:
        inner["rope_parameters"] |= change
    else:
        inner |= change
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        open_source(directory)
