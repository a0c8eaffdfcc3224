"""Gated DeltaNet layers (arXiv 2412.06464), which alternate with attention in Qwen3-Next and Qwen3.5: keys and tensors.

Checkpoints group value heads by their key head. ggml broadcasts in the other order, so llama.cpp's "qwen35" expects the
value heads tiled (see `Tiling`). Its "qwen3next" expects them grouped.
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
    all_rows,
    integer,
)
from converters.errors import InputError
from converters.llamacpp.container import Field, GGUFHeader, ValueType, numbers, uint32, whole_number

LAYER_TYPES = ("linear_attention", "full_attention")


@dataclass(frozen=True)
class Heads:
    """Heads of linear attention: numbers of `keys` and `values`, head `size`, convolution over `kernel` tokens."""

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
        """Rows of queries, keys and values together, over which the convolution runs."""
        return 2 * self.key_rows + self.value_rows

    def tiling(self, size: int) -> Tiling | None:
        """The reordering of value heads of `size` elements; None if the order does not change."""
        return None if self.keys == self.values else Tiling(self.keys, self.values // self.keys, size)


def heads(config: Config) -> Heads:
    """Read the heads from a config. Raises InputError for what llama.cpp cannot do."""
    result = Heads(
        integer(config, "linear_num_key_heads", high=MAX_HEADS),
        integer(config, "linear_num_value_heads", high=MAX_HEADS),
        integer(config, "linear_key_head_dim", high=MAX_HEAD_DIM),
        integer(config, "linear_conv_kernel_dim", low=2),
    )
    if result.values % result.keys:
        raise InputError(
            f"config.json: linear_num_value_heads {result.values} is not a multiple of linear_num_key_heads"
            f" {result.keys}"
        )
    if integer(config, "linear_value_head_dim") != result.size:
        raise InputError(
            f"config.json: linear_value_head_dim {config['linear_value_head_dim']} differs from linear_key_head_dim"
            f" {result.size}; llama.cpp supports only one length for both"
        )
    return result


def layer_types(config: Config) -> tuple[str, ...]:
    """The type of each layer (LAYER_TYPES). Raises InputError if the list has a wrong length or an unknown type."""
    count = integer(config, "num_hidden_layers", high=MAX_LAYERS)
    types = config.get("layer_types")
    if types is None:
        interval = integer(config, "full_attention_interval", 4)
        return tuple(LAYER_TYPES[(i + 1) % interval == 0] for i in range(count))
    if not isinstance(types, list) or len(types) != count:
        length = len(types) if isinstance(types, list) else "no"
        raise InputError(f"config.json: layer_types has {length} entries; num_hidden_layers is {count}")
    unknown = [kind for kind in types if kind not in LAYER_TYPES]
    if unknown:
        raise InputError(f"config.json: layer_types names {unknown[0]!r}; known: {', '.join(LAYER_TYPES)}")
    return tuple(types)


def fields(config: Config, prefix: str, mtp: int) -> dict[str, Field]:
    """The keys of linear attention, including which layers have it. MTP layers have full attention."""
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
    """Norm weights, which the checkpoint stores as their distance from 1."""
    return np.add(rows, 1, dtype=rows.dtype)


def minus_exp(rows: Rows) -> Rows:
    """-exp(A_log), the decay of the state. Computed in double precision, so that the result is the nearest float32."""
    return (-np.exp(rows.astype(np.float64))).astype(rows.dtype)


def _tiled(part: Part, first: int, tiling: Tiling | None) -> tuple[Part, ...]:
    """The part, with its rows from `first` on reordered head by head."""
    if tiling is None:
        return (part,)
    kept = (Part(part.source, part.shape, part.start, first),) if first > part.start else ()
    moved = (
        Part(part.source, part.shape, first + head * tiling.size, first + (head + 1) * tiling.size)
        for head in tiling.heads()
    )
    return (*kept, *moved)


def common_weights(source: str, block: int, config: Config, tiled: bool) -> list[Weight]:
    """Convolution, decay, time step, norm and output projection. With `tiled`, value heads are in ggml's order."""
    found = heads(config)
    rows, single = (found.tiling(found.size), found.tiling(1)) if tiled else (None, None)
    name, target = f"{source}.linear_attn", f"blk.{block}"
    convolution = all_rows(f"{name}.conv1d.weight", found.channels, 1, found.kernel)
    width = integer(config, "hidden_size")
    vector = (found.values,)
    return [
        Weight(
            f"{target}.ssm_conv1d.weight",
            (found.channels, found.kernel),
            _tiled(convolution, 2 * found.key_rows, rows),
        ),
        Weight(f"{target}.ssm_a", vector, (all_rows(f"{name}.A_log", *vector),), single, minus_exp),
        Weight(f"{target}.ssm_dt.bias", vector, (all_rows(f"{name}.dt_bias", *vector),), single),
        Weight(f"{target}.ssm_norm.weight", (found.size,), (all_rows(f"{name}.norm.weight", found.size),)),
        Weight(
            f"{target}.ssm_out.weight",
            (width, found.value_rows),
            (all_rows(f"{name}.out_proj.weight", width, found.value_rows),),
            rows,
        ),
    ]


def separate_projections(source: str, block: int, config: Config) -> list[Weight]:
    """Qwen3.5's input projections, tiled: one tensor for Q, K and V, and one each for gate, beta and alpha."""
    found, width = heads(config), integer(config, "hidden_size")
    rows, single = found.tiling(found.size), found.tiling(1)
    result = []
    for name, target, count, first, tiling in (
        ("in_proj_qkv", "attn_qkv", found.channels, 2 * found.key_rows, rows),
        ("in_proj_z", "attn_gate", found.value_rows, 0, rows),
        ("in_proj_b", "ssm_beta", found.values, 0, single),
        ("in_proj_a", "ssm_alpha", found.values, 0, single),
    ):
        stored = all_rows(f"{source}.linear_attn.{name}.weight", count, width)
        result.append(Weight(f"blk.{block}.{target}.weight", (count, width), _tiled(stored, first, tiling)))
    return result


def interleaved_projections(source: str, block: int, config: Config) -> list[Weight]:
    """Qwen3-Next's input projections. Query, key, values and gates, stored per key head, are separated by kind.

    Beta and alpha stay as they are stored.
    """
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
        Weight(f"blk.{block}.ssm_ba.weight", both, (all_rows(f"{source}.linear_attn.in_proj_ba.weight", *both),)),
    ]


def check_file(header: GGUFHeader, names: Collection[str]) -> None:
    """Check what llama.cpp does not check in these layers, but would abort the process for when it builds its graph.

    `names` are the names of all tensors. Raises InputError.
    """
    inner, values, size = (
        whole_number(header.path, header.metadata, f"{header.architecture}.ssm.{key}")
        for key in ("inner_size", "time_step_rank", "state_size")
    )
    if inner != values * size:
        raise InputError(f"{header.path}: ssm.inner_size is {inner}, but {values} heads of {size} give {values * size}")
    for name in names:
        block, found, _ = name.partition(".ssm_out.")
        for needed in (f"{block}.attn_qkv.weight", f"{block}.attn_gate.weight"):
            if found and needed not in names and f"{block}.ssm_in.weight" not in names:  # the older of both
                raise InputError(f"{header.path}: tensor {needed!r} is missing")
