"""The vision tower of Qwen2.5-VL ("qwen2.5vl_merger"): RMSNorms, a gated SiLU feed-forward, attention in windows.

All blocks but each n-th attend within windows of 112 x 112 pixels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from converters.architectures import tower
from converters.architectures.family import Config, Part, Rows, Tower, Weight, all_rows
from converters.architectures.layers import Table
from converters.errors import InputError
from converters.llamacpp.container import Field, GGUFHeader, boolean, uint32, whole_number

PROJECTOR = "qwen2.5vl_merger"
PATCH, WINDOW, FULL_ATTENTION = 14, 112, (7, 15, 23, 31)  # transformers' defaults; llama.cpp has no other window
IMAGE = 560  # what llama.cpp's converter states; pictures may have any size

MODEL: Table = (
    ("merger.ln_q.weight", "v.post_ln.weight", "D"),
    ("merger.mlp.0.weight", "mm.0.weight", "MM"),
    ("merger.mlp.0.bias", "mm.0.bias", "M"),
    ("merger.mlp.2.weight", "mm.2.weight", "OM"),
    ("merger.mlp.2.bias", "mm.2.bias", "O"),
)
BLOCK: Table = (
    ("norm1.weight", "ln1.weight", "D"),
    ("attn.proj.weight", "attn_out.weight", "DD"),
    ("attn.proj.bias", "attn_out.bias", "D"),
    ("norm2.weight", "ln2.weight", "D"),
    ("mlp.gate_proj.weight", "ffn_gate.weight", "FD"),
    ("mlp.gate_proj.bias", "ffn_gate.bias", "F"),
    ("mlp.up_proj.weight", "ffn_up.weight", "FD"),
    ("mlp.up_proj.bias", "ffn_up.bias", "F"),
    ("mlp.down_proj.weight", "ffn_down.weight", "DF"),
    ("mlp.down_proj.bias", "ffn_down.bias", "D"),
)
_PATTERN_KEY = "clip.vision.n_wa_pattern"


def fields(vision: Config, width: int) -> dict[str, Field]:
    """The metadata keys of the tower."""
    tower.require(vision, "hidden_act", "silu", "silu")
    tower.require(vision, "window_size", WINDOW, WINDOW)
    dims = tower.sizes(vision, width, PATCH)
    return {
        **tower.common_fields(vision, dims, IMAGE, PROJECTOR),
        "clip.use_silu": boolean(True),
        _PATTERN_KEY: uint32(_period(vision)),
    }


def weights(vision: Config, width: int) -> tuple[Weight, ...]:
    """All tensors; queries, keys and values are split, as llama.cpp's graph of this tower needs them."""
    dims = tower.sizes(vision, width, PATCH)
    result = [*tower.patch_weights(dims), *tower.table_weights(MODEL, "visual.", "", dims)]
    for i in range(tower.depth(vision)):
        result += tower.table_weights(BLOCK, f"visual.blocks.{i}.", f"v.blk.{i}.", dims)
        result += _split(f"visual.blocks.{i}.attn.qkv", f"v.blk.{i}.attn_", dims["D"])
    return tuple(result)


def _split(source: str, target: str, width: int) -> list[Weight]:
    result = []
    for i, kind in enumerate("qkv"):
        rows = Part(f"{source}.weight", (3 * width, width), i * width, (i + 1) * width)
        bias = all_rows(f"{source}.bias", 3 * width)
        result.append(Weight(f"{target}{kind}.weight", (width, width), (rows,)))
        result.append(Weight(f"{target}{kind}.bias", (width,), (bias,), value=_columns(i * width, (i + 1) * width)))
    return result


def _columns(first: int, end: int) -> Callable[[Rows], Rows]:
    return partial(_cut, first=first, end=end)


def _cut(rows: Rows, first: int, end: int) -> Rows:
    return np.ascontiguousarray(rows[:, first:end])


def _period(vision: Config) -> int:
    """n, if each n-th block attends to the whole picture. Raises InputError if the blocks that do so are others."""
    found = vision.get("fullatt_block_indexes", list(FULL_ATTENTION))
    valid = isinstance(found, list) and len(found) > 0 and all(type(n) is int and 0 <= n < 1 << 16 for n in found)
    period = found[0] + 1 if valid else 0
    full = {block for block in range(tower.depth(vision)) if period and (block + 1) % period == 0}
    if not valid or full != {block for block in found if block < tower.depth(vision)}:
        raise InputError(
            f"config.json: {tower.NAME}.fullatt_block_indexes is {str(found)[:60]}; llama.cpp supports only every n-th"
            " block, such as 7, 15, 23, 31"
        )
    return period


def vision_config(header: GGUFHeader) -> dict[str, Any]:
    """The vision config of a file."""
    known = tower.common_config(header)
    period = whole_number(header.path, header.metadata, _PATTERN_KEY, 0)
    return {**known, "fullatt_block_indexes": list(range(period - 1, known.get("depth", 0) + period, period or 1))}


TOWER = Tower(
    PROJECTOR,
    fields,
    weights,
    vision_config,
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
