"""What Qwen3-Next and Qwen3.5 share in addition to DeltaNet layers: gated attention, norms around 1, and MTP layers."""

from collections.abc import Callable
from dataclasses import replace

from converters.architectures import deltanet, layers
from converters.architectures.family import Config, Stored, Weight, all_rows, integer, require_value
from converters.errors import InputError
from converters.llamacpp.container import Field, uint32

HEAD_DIM = 256  # transformers' default

GATED_ATTENTION: layers.Table = (("self_attn.q_proj.weight", "attn_q.weight", "PD"), *list(layers.ATTENTION)[1:])
NORMS: layers.Table = (
    ("input_layernorm.weight", "attn_norm.weight", "D"),
    ("post_attention_layernorm.weight", "post_attention_norm.weight", "D"),
)
MTP: layers.Table = (
    ("mtp.fc.weight", "nextn.eh_proj.weight", "DT"),
    ("mtp.pre_fc_norm_embedding.weight", "nextn.enorm.weight", "D"),
    ("mtp.pre_fc_norm_hidden.weight", "nextn.hnorm.weight", "D"),
    ("mtp.norm.weight", "nextn.shared_head_norm.weight", "D"),
)


def fields(config: Config, prefix: str, mtp: int, sections: tuple[int, ...] | None = None) -> dict[str, Field]:
    """All keys except those of experts. Rotary embedding covers a part of each head."""
    require_value(config, "attention_bias", False, False)
    require_value(config, "attn_output_gate", True, True)
    result = layers.common_fields(config, prefix, mtp) | layers.head_fields(config, prefix, HEAD_DIM)
    result |= layers.rope_fields(config, prefix, sections) | deltanet.fields(config, prefix, mtp)
    share = layers.rope_parameters(config).get("partial_rotary_factor", 0.25)
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise InputError(f"config.json: partial_rotary_factor is {share!r}; expected a number above 0 and up to 1")
    rotated = int(integer(config, "head_dim", HEAD_DIM) * share)
    if rotated < 2 or rotated % 2:
        raise InputError(
            f"config.json: partial_rotary_factor {share!r} rotates {rotated} elements of a head, but an even"
            " number is needed"
        )
    result[f"{prefix}.rope.dimension_count"] = uint32(rotated)
    return result


def weights(
    config: Config,
    mtp: int,
    stored: Stored,
    projections: Callable[[str, int, Config], list[Weight]],
) -> tuple[Weight, ...]:
    """All tensors. `projections` gives a DeltaNet layer's input projections, which each family stores differently."""
    dims = layers.sizes(config, HEAD_DIM)
    dims["T"] = 2 * dims["D"]
    tiled = projections is deltanet.separate_projections
    result = layers.model_weights(config, dims)
    for i, kind in enumerate(deltanet.layer_types(config)):
        source = f"model.layers.{i}"
        if kind == "linear_attention":
            result += projections(source, i, config)
            result += deltanet.common_weights(source, i, config, tiled)
            result += layers.table_weights(NORMS, source, i, dims)
        else:
            result += _attention(source, i, dims)
        result += feed_forward(source, i, dims, stored)
    for j in range(mtp):
        block = layers.layer_count(config) + j
        result += _attention(f"mtp.layers.{j}", block, dims)
        result += feed_forward(f"mtp.layers.{j}", block, dims, stored)
        for name, target, letters in MTP:
            shape = tuple(dims[letter] for letter in letters)
            result.append(Weight(f"blk.{block}.{target}", shape, (all_rows(name, *shape),)))
    return tuple(_stored_around_one(weight) for weight in result)


def feed_forward(source: str, block: int, dims: layers.Sizes, stored: Stored) -> list[Weight]:
    """A dense feed-forward if the config has no experts; otherwise router, experts and the shared expert."""
    if "E" not in dims:
        return layers.table_weights(layers.FEED_FORWARD, source, block, dims)
    tables = (*layers.ROUTER, *layers.SHARED_EXPERT)
    return layers.table_weights(tables, source, block, dims) + layers.expert_weights(source, block, dims, stored)


def _attention(source: str, block: int, dims: layers.Sizes) -> list[Weight]:
    return layers.table_weights((*NORMS, *GATED_ATTENTION, *layers.HEAD_NORMS), source, block, dims)


def _stored_around_one(weight: Weight) -> Weight:
    """Add 1 to all norms except the norm inside linear attention, because they are stored as their distance from 1."""
    source = weight.parts[0].source
    norm = source.endswith("norm.weight") or source.startswith("mtp.pre_fc_norm")
    return (
        replace(weight, value=deltanet.plus_one) if norm and not source.endswith("linear_attn.norm.weight") else weight
    )
