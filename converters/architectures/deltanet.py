"""Gated DeltaNet layers (arXiv 2412.06464), which alternate with attention in Qwen3-Next and Qwen3.5: keys, tensors.

The checkpoint groups value heads by their key head; ggml broadcasts the other way round, so llama.cpp's "qwen35" wants
them tiled (`Tiling`). Its "qwen3next" keeps them grouped.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from converters.architectures.family import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    Config,
    Part,
    Rows,
    Tiling,
    Weight,
    integer,
    whole,
)
from converters.errors import InputError
from converters.llamacpp.container import Field, GGUFHeader, ValueType, numbers, uint32, whole_number

LAYER_TYPES = ("linear_attention", "full_attention")


@dataclass(frozen=True)
class Heads:
    """The linear attention's heads: `keys` and `values` many, each `size` long; convolution over `kernel` tokens."""

    keys: int
    values: int
    size: int
    kernel: int

    @property
    def key_rows(self) -> int:
        return self.keys * self.size

    @property
    def value_rows(self) -> int:
        return self.values * self.size

    @property
    def channels(self) -> int:
        """Queries, keys and values: what the convolution runs over."""
        return 2 * self.key_rows + self.value_rows

    def tiling(self, size: int) -> Tiling | None:
        """How value heads of `size` elements are reordered; None where the order is the same."""
        return None if self.keys == self.values else Tiling(self.keys, self.values // self.keys, size)


def heads(config: Config) -> Heads:
    """The heads that a config names. Raises InputError for what llama.cpp cannot do."""
    result = Heads(
        integer(config, "linear_num_key_heads", high=MAX_HEADS),
        integer(config, "linear_num_value_heads", high=MAX_HEADS),
        integer(config, "linear_key_head_dim", high=MAX_HEAD_DIM),
        integer(config, "linear_conv_kernel_dim", low=2),
    )
    if result.values % result.keys:
        raise InputError(
            f"config.json: linear_num_value_heads {result.values} is no multiple of linear_num_key_heads {result.keys}"
        )
    if integer(config, "linear_value_head_dim") != result.size:
        raise InputError(
            f"config.json: linear_value_head_dim {config['linear_value_head_dim']} is not linear_key_head_dim"
            f" {result.size}; llama.cpp has one length for both"
        )
    return result


def layer_types(config: Config) -> tuple[str, ...]:
    """What each layer is. Raises InputError if the list's length or a name in it is wrong."""
    count = integer(config, "num_hidden_layers", high=MAX_LAYERS)
    types = config.get("layer_types")
    if types is None:
        interval = integer(config, "full_attention_interval", 4)
        return tuple(LAYER_TYPES[(i + 1) % interval == 0] for i in range(count))
    if not isinstance(types, list) or len(types) != count:
        length = len(types) if isinstance(types, list) else "no"
        raise InputError(f"config.json: layer_types has {length} entries; num_hidden_layers is {count}")
    strangers = [kind for kind in types if kind not in LAYER_TYPES]
    if strangers:
        raise InputError(f"config.json: layer_types names {strangers[0]!r}; known: {', '.join(LAYER_TYPES)}")
    return tuple(types)


def fields(config: Config, prefix: str, mtp: int) -> dict[str, Field]:
    """The keys of the linear attention, and which layers have it. MTP layers have full attention."""
    found = heads(config)
    result = {
        f"{prefix}.ssm.conv_kernel": uint32(found.kernel),
        f"{prefix}.ssm.state_size": uint32(found.size),
        f"{prefix}.ssm.group_count": uint32(found.keys),
        f"{prefix}.ssm.time_step_rank": uint32(found.values),
        f"{prefix}.ssm.inner_size": uint32(found.value_rows),
    }
    recurrent = [kind == "linear_attention" for kind in layer_types(config)] + [False] * mtp
    if config.get("layer_types") is not None:
        result[f"{prefix}.attention.recurrent_layers"] = numbers(ValueType.BOOL, recurrent)
    result[f"{prefix}.full_attention_interval"] = uint32(integer(config, "full_attention_interval", 4))
    return result


def plus_one(rows: Rows) -> Rows:
    """Norm weights: stored as their distance from 1."""
    return np.add(rows, 1, dtype=rows.dtype)


def minus_exp(rows: Rows) -> Rows:
    """A_log: the state's decay is -exp of it. In double precision, so that the result is the nearest float32."""
    return (-np.exp(rows.astype(np.float64))).astype(rows.dtype)


def _tiled(part: Part, first: int, tiling: Tiling | None) -> tuple[Part, ...]:
    """The part's rows from `first` on, head by head in the new order."""
    if tiling is None:
        return (part,)
    kept = (Part(part.source, part.shape, part.start, first),) if first > part.start else ()
    moved = (
        Part(part.source, part.shape, first + head * tiling.size, first + (head + 1) * tiling.size)
        for head in tiling.heads()
    )
    return (*kept, *moved)


def common_weights(source: str, block: int, config: Config, tiled: bool) -> list[Weight]:
    """Convolution, decay, time step, norm and output projection. `tiled`: value heads in ggml's order."""
    found = heads(config)
    rows, single = (found.tiling(found.size), found.tiling(1)) if tiled else (None, None)
    name, target = f"{source}.linear_attn", f"blk.{block}"
    convolution = whole(f"{name}.conv1d.weight", found.channels, 1, found.kernel)
    width = integer(config, "hidden_size")
    vector = (found.values,)
    return [
        Weight(
            f"{target}.ssm_conv1d.weight",
            (found.channels, found.kernel),
            _tiled(convolution, 2 * found.key_rows, rows),
        ),
        Weight(f"{target}.ssm_a", vector, (whole(f"{name}.A_log", *vector),), single, minus_exp),
        Weight(f"{target}.ssm_dt.bias", vector, (whole(f"{name}.dt_bias", *vector),), single),
        Weight(f"{target}.ssm_norm.weight", (found.size,), (whole(f"{name}.norm.weight", found.size),)),
        Weight(
            f"{target}.ssm_out.weight",
            (width, found.value_rows),
            (whole(f"{name}.out_proj.weight", width, found.value_rows),),
            rows,
        ),
    ]


def separate_projections(source: str, block: int, config: Config) -> list[Weight]:
    """Qwen3.5's projections: one tensor for queries, keys and values, one each for gate, beta and alpha. Tiled."""
    found, width = heads(config), integer(config, "hidden_size")
    rows, single = found.tiling(found.size), found.tiling(1)
    result = []
    for name, target, count, first, tiling in (
        ("in_proj_qkv", "attn_qkv", found.channels, 2 * found.key_rows, rows),
        ("in_proj_z", "attn_gate", found.value_rows, 0, rows),
        ("in_proj_b", "ssm_beta", found.values, 0, single),
        ("in_proj_a", "ssm_alpha", found.values, 0, single),
    ):
        stored = whole(f"{source}.linear_attn.{name}.weight", count, width)
        result.append(Weight(f"blk.{block}.{target}.weight", (count, width), _tiled(stored, first, tiling)))
    return result


def interleaved_projections(source: str, block: int, config: Config) -> list[Weight]:
    """Qwen3-Next's: query, key, values and gates of each key head together, taken apart; beta and alpha as they are."""
    found, width = heads(config), integer(config, "hidden_size")
    per_key = found.values // found.keys * found.size
    group = 2 * found.size + 2 * per_key
    name, shape = f"{source}.linear_attn.in_proj_qkvz.weight", (found.keys * group, width)

    def of_each_group(first: int, count: int) -> tuple[Part, ...]:
        return tuple(Part(name, shape, i * group + first, i * group + first + count) for i in range(found.keys))

    queries, keys = of_each_group(0, found.size), of_each_group(found.size, found.size)
    values, gates = of_each_group(2 * found.size, per_key), of_each_group(2 * found.size + per_key, per_key)
    both = (2 * found.values, width)
    return [
        Weight(f"blk.{block}.attn_qkv.weight", (found.channels, width), queries + keys + values),
        Weight(f"blk.{block}.attn_gate.weight", (found.value_rows, width), gates),
        Weight(f"blk.{block}.ssm_ba.weight", both, (whole(f"{source}.linear_attn.in_proj_ba.weight", *both),)),
    ]


def check_file(header: GGUFHeader, names: Collection[str]) -> None:
    """What llama.cpp takes on trust in these layers of a GGUF file, and ends the process for when it builds its graph.

    `names` are those of all tensors. Raises InputError.
    """
    inner, values, size = (
        whole_number(header.path, header.metadata, f"{header.architecture}.ssm.{key}")
        for key in ("inner_size", "time_step_rank", "state_size")
    )
    if inner != values * size:
        raise InputError(f"{header.path}: ssm.inner_size is {inner}; {values} heads of {size} make {values * size}")
    for name in names:
        block, found, _ = name.partition(".ssm_out.")
        for needed in (f"{block}.attn_qkv.weight", f"{block}.attn_gate.weight"):
            if found and needed not in names and f"{block}.ssm_in.weight" not in names:  # the older one for both
                raise InputError(f"{header.path}: tensor {needed!r} is missing")
