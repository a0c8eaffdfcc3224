"""The vision tower of Qwen3-VL, Qwen3.5 and Qwen3.6 ("qwen3vl_merger"): learned positions, LayerNorms, GELU.

Qwen3-VL also has deepstack mergers: projectors behind some blocks, whose output first layers of the text model add.
"""

import math
from typing import Any

from converters.architectures import tower
from converters.architectures.family import MAX_LAYERS, Config, Tower, Weight
from converters.architectures.layers import Table
from converters.errors import InputError
from converters.llamacpp.container import Field, GGUFHeader, ValueType, boolean, numbers, uint32

PROJECTOR = "qwen3vl_merger"
PATCH, POSITIONS = 16, 2304  # transformers' defaults

MODEL: Table = (
    ("patch_embed.proj.bias", "v.patch_embd.bias", "D"),
    ("pos_embed.weight", "v.position_embd.weight", "ND"),
    ("merger.norm.weight", "v.post_ln.weight", "D"),
    ("merger.norm.bias", "v.post_ln.bias", "D"),
    ("merger.linear_fc1.weight", "mm.0.weight", "MM"),
    ("merger.linear_fc1.bias", "mm.0.bias", "M"),
    ("merger.linear_fc2.weight", "mm.2.weight", "OM"),
    ("merger.linear_fc2.bias", "mm.2.bias", "O"),
)
BLOCK: Table = (
    ("norm1.weight", "ln1.weight", "D"),
    ("norm1.bias", "ln1.bias", "D"),
    ("attn.qkv.weight", "attn_qkv.weight", "TD"),
    ("attn.qkv.bias", "attn_qkv.bias", "T"),
    ("attn.proj.weight", "attn_out.weight", "DD"),
    ("attn.proj.bias", "attn_out.bias", "D"),
    ("norm2.weight", "ln2.weight", "D"),
    ("norm2.bias", "ln2.bias", "D"),
    ("mlp.linear_fc1.weight", "ffn_up.weight", "FD"),
    ("mlp.linear_fc1.bias", "ffn_up.bias", "F"),
    ("mlp.linear_fc2.weight", "ffn_down.weight", "DF"),
    ("mlp.linear_fc2.bias", "ffn_down.bias", "D"),
)
DEEPSTACK: Table = (
    ("norm.weight", "norm.weight", "M"),
    ("norm.bias", "norm.bias", "M"),
    ("linear_fc1.weight", "fc1.weight", "MM"),
    ("linear_fc1.bias", "fc1.bias", "M"),
    ("linear_fc2.weight", "fc2.weight", "OM"),
    ("linear_fc2.bias", "fc2.bias", "O"),
)
_DEEPSTACK_KEY = "clip.vision.is_deepstack_layers"


def fields(vision: Config, width: int) -> dict[str, Field]:
    """The metadata keys of the tower."""
    tower.require(vision, "hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    dims = tower.sizes(vision, width, PATCH)
    layers = deepstack_layers(vision)
    return {
        **tower.common_fields(vision, dims, math.isqrt(_positions(vision)) * dims["P"], PROJECTOR),
        "clip.use_gelu": boolean(True),
        "clip.vision.spatial_merge_size": uint32(tower.MERGE),
        _DEEPSTACK_KEY: numbers(ValueType.BOOL, [block in layers for block in range(tower.depth(vision))]),
    }


def weights(vision: Config, width: int) -> tuple[Weight, ...]:
    """All tensors."""
    dims = {**tower.sizes(vision, width, PATCH), "N": _positions(vision)}
    result = [*tower.patch_weights(dims), *tower.table_weights(MODEL, "visual.", "", dims)]
    for i in range(tower.depth(vision)):
        result += tower.table_weights(BLOCK, f"visual.blocks.{i}.", f"v.blk.{i}.", dims)
    for i, block in enumerate(deepstack_layers(vision)):
        result += tower.table_weights(DEEPSTACK, f"visual.deepstack_merger_list.{i}.", f"v.deepstack.{block}.", dims)
    return tuple(result)


def deepstack_layers(vision: Config) -> list[int]:
    """The blocks with a deepstack merger, in the order of the mergers. Raises InputError."""
    found = vision.get("deepstack_visual_indexes") or []
    count = tower.depth(vision)
    if (
        not isinstance(found, list)
        or len(found) > MAX_LAYERS
        or not all(type(n) is int and 0 <= n < count for n in found)
    ):
        raise InputError(
            f"config.json: {tower.NAME}.deepstack_visual_indexes is {str(found)[:40]}; expected a list of blocks below"
            f" {count}"
        )
    if sorted(set(found)) != found:  # the order of blocks is the order in which llama.cpp passes the features on
        raise InputError(f"config.json: {tower.NAME}.deepstack_visual_indexes {str(found)[:40]} is not in rising order")
    return found


def _positions(vision: Config) -> int:
    count = tower.size(vision, "num_position_embeddings", POSITIONS, high=1 << 20)
    if math.isqrt(count) ** 2 != count:
        raise InputError(
            f"config.json: {tower.NAME}.num_position_embeddings is {count}; the positions are a square grid, so it"
            " must be a square"
        )
    return count


def vision_config(header: GGUFHeader) -> dict[str, Any]:
    """The vision config of a file."""
    known = tower.common_config(header)
    positions = next((tensor.shape[0] for tensor in header.tensors if tensor.name == "v.position_embd.weight"), 0)
    marks = header.metadata.get(_DEEPSTACK_KEY)
    is_list = marks is not None and marks.item_type is ValueType.BOOL and marks.count <= MAX_LAYERS
    layers = [block for block, mark in enumerate(marks.value) if mark] if marks is not None and is_list else []
    return {**known, "num_position_embeddings": positions, "deepstack_visual_indexes": layers}


TOWER = Tower(PROJECTOR, fields, weights, vision_config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
