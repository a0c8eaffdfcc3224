"""Qwen2 and Qwen2.5 ("qwen2"), and the same with experts ("qwen2moe"): Q, K and V have biases, heads have no norms."""

from converters.architectures import layers
from converters.architectures.family import Architecture, Config, Stored, Weight, integer, require_value
from converters.errors import InputError
from converters.llamacpp.container import Field, uint32


def fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen2.`."""
    return _common_fields(config, "qwen2", mtp)


def moe_fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen2moe.`. llama.cpp never scales the chosen experts' weights to sum 1."""
    require_value(config, "norm_topk_prob", False, False)
    require_value(config, "qkv_bias", True, True)
    require_value(config, "tie_word_embeddings", False, False)
    shared = uint32(integer(config, "shared_expert_intermediate_size"))
    return {
        **_common_fields(config, "qwen2moe", mtp),
        **layers.expert_fields(config, "qwen2moe"),
        "qwen2moe.expert_shared_feed_forward_length": shared,
    }


def _common_fields(config: Config, prefix: str, mtp: int) -> dict[str, Field]:
    head, stated = _head_dim(config), config.get("head_dim")
    if stated not in (None, head):
        raise InputError(
            f"config.json: head_dim is {stated!r}; llama.cpp supports only hidden_size / num_attention_heads, "
            f"here {head}, for this model"
        )
    lengths = {} if stated is None else layers.head_fields(config, prefix, head)
    return layers.common_fields(config, prefix, mtp) | lengths | layers.rope_fields(config, prefix)


def weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """All tensors of the dense models."""
    dims, result = _weights_outside(config)
    for i in range(layers.layer_count(config)):
        for table in (*_ATTENTION, layers.FEED_FORWARD):
            result += layers.table_weights(table, f"model.layers.{i}", i, dims)
    return tuple(result)


def moe_weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """All tensors; the checkpoint may have experts fused or one by one."""
    dims, result = _weights_outside(config)
    for i in range(layers.layer_count(config)):
        source = f"model.layers.{i}"
        for table in (*_ATTENTION, layers.ROUTER, layers.SHARED_EXPERT):
            result += layers.table_weights(table, source, i, dims)
        result += layers.expert_weights(source, i, dims, stored)
    return tuple(result)


_ATTENTION = (layers.NORMS, layers.ATTENTION, layers.ATTENTION_BIASES)


def _weights_outside(config: Config) -> tuple[layers.Sizes, list[Weight]]:
    """The dimensions, and the tensors outside the layers. llama.cpp ignores the config's length of a head."""
    dims = layers.sizes({**config, "head_dim": _head_dim(config)})
    return dims, layers.model_weights(config, dims)


def _head_dim(config: Config) -> int:
    return integer(config, "hidden_size") // integer(config, "num_attention_heads")


ARCHITECTURES = (
    Architecture("qwen2", ("Qwen2ForCausalLM",), fields, weights),
    Architecture("qwen2moe", ("Qwen2MoeForCausalLM",), moe_fields, moe_weights),
)
