"""Makes tiny random checkpoints of every family with transformers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5Config, Qwen3_5TextConfig
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeConfig, Qwen3_5MoeTextConfig

COMMON: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.08,
}  # fmt: skip
MOE: dict[str, Any] = {"moe_intermediate_size": 96, "num_experts": 6, "num_experts_per_tok": 2}
HYBRID: dict[str, Any] = {
    **COMMON, "num_hidden_layers": 4, "head_dim": 64, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
HYBRID_MOE = {**HYBRID, **MOE, "shared_expert_intermediate_size": 96}
VISION = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 128}
SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2], "mrope_interleaved": True}


def _within(config: type, text: dict[str, Any]) -> Callable[..., Any]:
    """The config of a multi-modal model around a text config."""

    def make(vision: dict[str, Any] = VISION, **settings: Any) -> Any:
        tied = settings.get("tie_word_embeddings", False)
        return config(text_config={**text, **settings}, vision_config=vision, tie_word_embeddings=tied)

    return make


def _plain(config: type, defaults: dict[str, Any]) -> Callable[..., Any]:
    return lambda **settings: config(**{**defaults, **settings})


@dataclass(frozen=True)
class Family:
    model: type[PreTrainedModel]
    config: Callable[..., Any]


NO_HEAD_DIM = {key: value for key, value in COMMON.items() if key != "head_dim"}

FAMILIES = {
    "qwen2": Family(transformers.Qwen2ForCausalLM, _plain(transformers.Qwen2Config, NO_HEAD_DIM)),
    "qwen2moe": Family(
        transformers.Qwen2MoeForCausalLM,
        _plain(transformers.Qwen2MoeConfig, {**NO_HEAD_DIM, **MOE, "shared_expert_intermediate_size": 160}),
    ),
    "qwen3moe": Family(
        transformers.Qwen3MoeForCausalLM,
        _plain(transformers.Qwen3MoeConfig, {**COMMON, **MOE, "norm_topk_prob": True}),
    ),
    "qwen3next": Family(transformers.Qwen3NextForCausalLM, _plain(transformers.Qwen3NextConfig, HYBRID_MOE)),
    "qwen35": Family(transformers.Qwen3_5ForCausalLM, _plain(Qwen3_5TextConfig, HYBRID)),
    "qwen35, multi-modal": Family(transformers.Qwen3_5ForConditionalGeneration, _within(Qwen3_5Config, HYBRID)),
    "qwen35moe": Family(transformers.Qwen3_5MoeForCausalLM, _plain(Qwen3_5MoeTextConfig, HYBRID_MOE)),
    "qwen35moe, multi-modal": Family(
        transformers.Qwen3_5MoeForConditionalGeneration, _within(Qwen3_5MoeConfig, HYBRID_MOE)
    ),
    "qwen3vl": Family(
        transformers.Qwen3VLForConditionalGeneration,
        _within(transformers.Qwen3VLConfig, {**COMMON, "rope_parameters": {**SECTIONS, "mrope_section": [6, 5, 5]}}),
    ),
    "qwen3vlmoe": Family(
        transformers.Qwen3VLMoeForConditionalGeneration,
        _within(
            transformers.Qwen3VLMoeConfig,
            {**COMMON, **MOE, "rope_parameters": {**SECTIONS, "mrope_section": [6, 5, 5]}},
        ),
    ),
    "qwen2vl": Family(
        transformers.Qwen2_5_VLForConditionalGeneration,
        _within(
            Qwen2_5_VLConfig,
            {
                **COMMON,
                "head_dim": None,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            },
        ),
    ),
}

UNTIED = ("qwen2moe",)
"""Families whose output llama.cpp never takes from the embeddings."""

TORCH_ONLY = {
    "llama": Family(transformers.LlamaForCausalLM, _plain(transformers.LlamaConfig, COMMON)),
}
"""Families that torch quantizes and that are not exported."""


def make(
    family: str, directory: Path, seed: int = 0, shard: str = "5GB", dtype: Any = torch.float32, **settings: Any
) -> Path:
    """Save a random model of the family; `settings` are entries of its (text) config, and `vision`, if it is among
    them, the config of its vision tower."""
    torch.manual_seed(seed)
    chosen = (FAMILIES | TORCH_ONLY)[family]
    model = chosen.model(chosen.config(**settings))
    for name, parameter in model.named_parameters():
        if "norm" in name:  # the initial values of 1 and 0 would hide a norm that was lost or swapped
            around = 1.0 if parameter.data.mean() > 0.5 else 0.0
            parameter.data.uniform_(around - 0.4, around + 0.4)
        elif name.endswith(("A_log", "dt_bias", ".bias")):
            parameter.data.uniform_(-1.0, 1.0)
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    return directory


def make_with_tower(family: str, directory: Path, **settings: Any) -> Path:
    """Save a random multi-modal model of the family with the tower `TOWERS[family]`, and with the normalization of
    pictures that its published checkpoints state."""
    text = {"hidden_size": 128, **settings}
    vision = {**TOWERS[family], "out_hidden_size": text["hidden_size"], **settings.get("vision", {})}
    make(family, directory, **{**text, "vision": vision})
    mean, std = PICTURES[family]
    state = {"image_mean": mean, "image_std": std, "patch_size": vision["patch_size"], "merge_size": 2}
    (directory / "preprocessor_config.json").write_text(json.dumps(state))
    return directory


_TOWER: dict[str, Any] = {"depth": 3, "hidden_size": 64, "num_heads": 2, "intermediate_size": 100}
_LEARNED: dict[str, Any] = {**_TOWER, "patch_size": 16, "num_position_embeddings": 64}
TOWERS: dict[str, dict[str, Any]] = {
    "qwen3vl": {**_LEARNED, "deepstack_visual_indexes": [0, 2]},
    "qwen3vlmoe": {**_LEARNED, "deepstack_visual_indexes": [1]},
    "qwen35, multi-modal": _LEARNED,
    "qwen35moe, multi-modal": _LEARNED,
    "qwen2vl": {**_TOWER, "patch_size": 14, "fullatt_block_indexes": [1, 3]},
}
"""Towers of families; a feed-forward width of 100, which is no multiple of 32, is as in published models (3420, 4304).

Three blocks are the fewest that distinguish which of them have deepstack features or full attention."""
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
PICTURES = {family: _CLIP if family == "qwen2vl" else ([0.5] * 3, [0.5] * 3) for family in TOWERS}


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Change the tensors of a single-file checkpoint and save it again."""
    file = directory / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file)
    return directory


def fuse_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Per-expert tensors to the fused ones that Qwen3.5 is published with: [E, 2F, D] and [E, D, F]."""
    kept = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    layers = {name.partition(".experts.")[0] for name in tensors if ".experts." in name}
    for layer in layers:
        count = len(
            {name.split(".experts.")[1].split(".")[0] for name in tensors if name.startswith(f"{layer}.experts.")}
        )

        def stacked(kind: str, layer: str = layer, count: int = count) -> torch.Tensor:
            return torch.stack([tensors[f"{layer}.experts.{i}.{kind}_proj.weight"] for i in range(count)])

        kept[f"{layer}.experts.gate_up_proj"] = torch.cat([stacked("gate"), stacked("up")], 1)
        kept[f"{layer}.experts.down_proj"] = stacked("down")
    return kept


def transpose_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Transposed fused experts, as in published Qwen3-VL-MoE: [E, D, 2F] and [E, F, D]."""
    return {name: tensor.transpose(1, 2) if ".experts." in name else tensor for name, tensor in tensors.items()}


def add_mtp(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add a multi-token prediction layer: a copy of the last full-attention layer, and the tensors only MTP has."""
    generator = torch.Generator().manual_seed(5)
    last = next(name for name in tensors if name.endswith("self_attn.q_proj.weight")).removesuffix(
        "self_attn.q_proj.weight"
    )
    copies = {
        f"mtp.layers.0.{name.removeprefix(last)}": torch.rand(
            tensor.shape, generator=generator, dtype=torch.float32
        ).to(tensor.dtype)
        for name, tensor in tensors.items()
        if name.startswith(last)
    }
    norm = next(tensor for name, tensor in tensors.items() if name.endswith("layers.0.input_layernorm.weight"))
    width = len(norm)
    own = {
        "mtp.fc.weight": (width, 2 * width),
        "mtp.norm.weight": (width,),
        "mtp.pre_fc_norm_embedding.weight": (width,),
        "mtp.pre_fc_norm_hidden.weight": (width,),
    }
    return (
        tensors | copies | {name: torch.rand(shape, generator=generator).to(norm.dtype) for name, shape in own.items()}
    )
