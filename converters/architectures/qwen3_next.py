"""Qwen3-Next: DeltaNet layers with attention in between, experts with a shared one everywhere ("qwen3next")."""

from converters.architectures import deltanet, hybrid, layers
from converters.architectures.family import Architecture, Config, Stored, Weight, fixed, integer
from converters.llamacpp.container import Field, uint32

PREFIX = "qwen3next"


def fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata under `qwen3next.`. llama.cpp always scales the weights of the chosen experts to a sum of 1."""
    fixed(config, "norm_topk_prob", True, True)
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
