"""Qwen3 dense: keys and names as llama.cpp's loader for "qwen3" expects them. Values do not change."""

from converters.architectures import layers
from converters.architectures.family import Architecture, Config, Stored, Weight, require_value
from converters.llamacpp.container import Field

HEAD_DIM = 128  # transformers' default


def fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen3.`."""
    require_value(config, "attention_bias", False, False)
    common = layers.common_fields(config, "qwen3", mtp)
    return common | layers.head_fields(config, "qwen3", HEAD_DIM) | layers.rope_fields(config, "qwen3")


def weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """All tensors."""
    dims = layers.sizes(config, HEAD_DIM)
    result = layers.model_weights(config, dims)
    for i in range(layers.layer_count(config)):
        for table in (layers.NORMS, layers.ATTENTION, layers.HEAD_NORMS, layers.FEED_FORWARD):
            result += layers.table_weights(table, f"model.layers.{i}", i, dims)
    return tuple(result)


ARCHITECTURES = (Architecture("qwen3", ("Qwen3ForCausalLM",), fields, weights),)
