"""Qwen3-MoE: Qwen3 with a router and experts in every layer ("qwen3moe")."""

from converters.architectures import layers
from converters.architectures.family import Architecture, Config, Stored, Weight, fixed, integer
from converters.llamacpp.container import Field


def fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata under `qwen3moe.`. llama.cpp always scales the weights of the chosen experts to a sum of 1."""
    fixed(config, "attention_bias", False, False)
    fixed(config, "norm_topk_prob", True, False)
    head = head_dim(config)
    common = layers.common_fields(config, "qwen3moe", mtp) | layers.expert_fields(config, "qwen3moe")
    return common | layers.head_fields(config, "qwen3moe", head) | layers.rope_fields(config, "qwen3moe")


def weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """All tensors; experts fused or one by one, as the checkpoint has them."""
    dims = layers.sizes(config, head_dim(config))
    result = layers.model_weights(config, dims)
    for i in range(layers.layer_count(config)):
        source = f"model.layers.{i}"
        for table in (layers.NORMS, layers.ATTENTION, layers.HEAD_NORMS, layers.ROUTER):
            result += layers.table_weights(table, source, i, dims)
        result += layers.expert_weights(source, i, dims, stored)
    return tuple(result)


def head_dim(config: Config) -> int:
    """What transformers takes where the key is missing."""
    return integer(config, "hidden_size") // integer(config, "num_attention_heads")


ARCHITECTURES = (Architecture("qwen3moe", ("Qwen3MoeForCausalLM",), fields, weights),)
