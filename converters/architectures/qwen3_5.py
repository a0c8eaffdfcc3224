"""Qwen3.5 and Qwen3.6, dense ("qwen35") and with experts ("qwen35moe"), also as the text part of multi-modal models."""

from converters.architectures import deltanet, hybrid, layers, qwen3_vl_tower
from converters.architectures.family import Architecture, Config, Stored, Weight, integer
from converters.llamacpp.container import Field, uint32

SECTIONS = (11, 11, 10)  # multi-rope sections, if the config has none


def dense_fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen35.`."""
    return hybrid.fields(config, "qwen35", mtp, SECTIONS)


def moe_fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen35moe.`."""
    shared = uint32(integer(config, "shared_expert_intermediate_size"))
    return {
        **hybrid.fields(config, "qwen35moe", mtp, SECTIONS),
        **layers.expert_fields(config, "qwen35moe"),
        "qwen35moe.expert_shared_feed_forward_length": shared,
    }


def dense_weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """All tensors. A number of experts in the config is ignored, because this family has none."""
    return moe_weights({key: config[key] for key in config if key not in layers.EXPERT_COUNTS}, mtp, stored)


def moe_weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """All tensors."""
    return hybrid.weights(config, mtp, stored, deltanet.separate_projections)


ARCHITECTURES = (
    Architecture(
        "qwen35",
        ("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
        dense_fields,
        dense_weights,
        mtp=True,
        check_file=deltanet.check_file,
        tower=qwen3_vl_tower.TOWER,
    ),
    Architecture(
        "qwen35moe",
        ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
        moe_fields,
        moe_weights,
        mtp=True,
        check_file=deltanet.check_file,
        tower=qwen3_vl_tower.TOWER,
    ),
)
