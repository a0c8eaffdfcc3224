"""The shapes of the built-in models. Row lengths are multiples of 256, so every K-quant applies to every matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig, Qwen3Config, Qwen3ForCausalLM

from presets.micro import tokenizer


@dataclass(frozen=True)
class Shape:
    """`model` builds a model, given the id of the end-of-text token; for `recall_layers` see presets.micro.train."""

    model: Callable[[int], PreTrainedModel]
    recall_layers: int


def _common(end: int) -> dict[str, Any]:
    return {
        "vocab_size": tokenizer.SIZE,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "eos_token_id": end,
        "bos_token_id": None,
        "pad_token_id": end,
        "dtype": "bfloat16",
    }


def micro(end: int) -> PreTrainedModel:
    """A Qwen3 of 5.1 million parameters."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    sizes = {"intermediate_size": 768, "num_hidden_layers": 6, "rope_parameters": rope}
    return Qwen3ForCausalLM(Qwen3Config(**_common(end), **sizes))


def nano(end: int) -> PreTrainedModel:
    """A Qwen3 of 1.3 million parameters: the shape of micro with 2 narrow layers."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    sizes = {"intermediate_size": 256, "num_hidden_layers": 2, "num_key_value_heads": 4, "rope_parameters": rope}
    return Qwen3ForCausalLM(Qwen3Config(**{**_common(end), **sizes}))


def mini(end: int) -> PreTrainedModel:
    """A Qwen3 of 12.6 million parameters: the shape of micro at twice the width."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    heads = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4}
    sizes = {"intermediate_size": 768, "num_hidden_layers": 6, "rope_parameters": rope}
    return Qwen3ForCausalLM(Qwen3Config(**{**_common(end), **heads, **sizes}))


def micro_moe(end: int) -> PreTrainedModel:
    """A Qwen3.6-MoE of 7 million parameters: 3 DeltaNet layers, 1 attention layer, 6 experts and a shared expert."""
    linear = {
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    experts = {
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 256,
        "num_experts": 6,
        "num_experts_per_tok": 2,
    }
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5, "mrope_section": [6, 5, 5]}
    sizes = {"num_hidden_layers": 4, "rope_parameters": rope}
    return Qwen3_5MoeForCausalLM(Qwen3_5MoeTextConfig(**_common(end), **linear, **experts, **sizes))


SHAPES = {
    "nano": Shape(nano, recall_layers=1),
    "micro": Shape(micro, recall_layers=3),
    "mini": Shape(mini, recall_layers=3),
    "micro-moe": Shape(micro_moe, recall_layers=2),
}
