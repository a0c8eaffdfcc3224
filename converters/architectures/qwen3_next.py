"""Qwen3-Next ("qwen3next"): DeltaNet layers alternating with attention; experts and a shared expert in every layer."""

from converters.architectures import deltanet, hybrid, layers
from converters.architectures.family import Architecture, Config, Stored, Weight, integer, require_value
from converters.llamacpp.container import Field, uint32

PREFIX = "qwen3next"


def fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen3next.`. llama.cpp always scales the chosen experts' weights to sum 1."""
    require_value(config, "norm_topk_prob", True, True)
    shared = uint32(integer(config, "shared_expert_intermediate_size"))
    return {
        **hybrid.fields(config, PREFIX, mtp),
        **layers.expert_fields(config, PREFIX),
        f"{PREFIX}.expert_shared_feed_forward_length": shared,
    }


def weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """All tensors."""
    return hybrid.weights(config, mtp, stored, deltanet.interleaved_projections)


ARCHITECTURES = (
    Architecture(PREFIX, ("Qwen3NextForCausalLM",), fields, weights, mtp=True, check_file=deltanet.check_file),
)
