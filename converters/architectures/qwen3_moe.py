"""Qwen3-MoE: Qwen3 with a router and experts in every layer ("qwen3moe")."""

from converters.architectures import layers
from converters.architectures.family import Architecture, Config, Stored, Weight, integer, require_value
from converters.llamacpp.container import Field


def fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen3moe.`. llama.cpp always scales the chosen experts' weights to sum 1."""
    require_value(config, "attention_bias", False, False)
    require_value(config, "norm_topk_prob", True, False)
    head = head_dim(config)
    common = layers.common_fields(config, "qwen3moe", mtp) | layers.expert_fields(config, "qwen3moe")
    return common | layers.head_fields(config, "qwen3moe", head) | layers.rope_fields(config, "qwen3moe")


def weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """All tensors; the checkpoint may have experts fused or one by one."""
    dims = layers.sizes(config, head_dim(config))
    result = layers.model_weights(config, dims)
    for i in range(layers.layer_count(config)):
        source = f"model.layers.{i}"
        for table in (layers.NORMS, layers.ATTENTION, layers.HEAD_NORMS, layers.ROUTER):
            result += layers.table_weights(table, source, i, dims)
        result += layers.expert_weights(source, i, dims, stored)
    return tuple(result)


def head_dim(config: Config) -> int:
    """transformers' default for `head_dim`."""
    return integer(config, "hidden_size") // integer(config, "num_attention_heads")


ARCHITECTURES = (Architecture("qwen3moe", ("Qwen3MoeForCausalLM",), fields, weights),)
