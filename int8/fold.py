"""Where smoothing scales go, as a table for each architecture, and the arithmetic of folding them in.

A producer's output channels are divided by s and the columns of all that reads them multiplied by s, so the model's
function stays. Method: SmoothQuant (arXiv 2211.10438), s = max|x|^alpha / max|w|^(1 - alpha) for each channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor, nn

from int8.recipe import Fold


class Spread(Enum):
    """Which columns of a consumer read a channel of the producer."""

    SAME = "same"  # the one of its number
    QUERY_HEADS = "query heads"  # in grouped-query attention, one in each query head that shares the KV head
    ALL_HEADS = "all heads"  # one in every head: the producer's weights are one head's


class Kind(Enum):
    """What a producer is, and so how its output is divided."""

    LINEAR = "linear"  # rows of the weight, and the bias
    NORM = "norm"  # the weight
    NORM_ONE_PLUS = "norm that multiplies by 1 + weight"


@dataclass(frozen=True)
class Row:
    """One fold of a layer, by paths in it. `*` stands for every expert's number, a fold each if the producer has it."""

    fold: Fold
    producer: str
    consumers: tuple[str, ...]
    kind: Kind = Kind.LINEAR
    spread: Spread = Spread.SAME


# Attention weighs and adds values, and a gate multiplies what comes of them: neither mixes channels of a head.
ATTENTION = (
    Row(Fold.NORM_QKV, "input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), Kind.NORM),
    Row(Fold.V_O, "self_attn.v_proj", ("self_attn.o_proj",), spread=Spread.QUERY_HEADS),
)
# The norm before out_proj has one head's weights. Its input cannot take scales: they would not survive the norm.
_DELTANET_OUT = Row(Fold.V_O, "linear_attn.norm", ("linear_attn.out_proj",), Kind.NORM, Spread.ALL_HEADS)
_QWEN3_NEXT_INPUTS = ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba")
_QWEN3_5_INPUTS = (
    "linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_b", "linear_attn.in_proj_a",
)  # fmt: skip
QWEN3_NEXT_DELTANET = (Row(Fold.NORM_QKV, "input_layernorm", _QWEN3_NEXT_INPUTS, Kind.NORM), _DELTANET_OUT)
QWEN3_5_DELTANET = (Row(Fold.NORM_QKV, "input_layernorm", _QWEN3_5_INPUTS, Kind.NORM), _DELTANET_OUT)
MLP = (
    Row(Fold.NORM_GATE_UP, "post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), Kind.NORM),
    Row(Fold.UP_DOWN, "mlp.up_proj", ("mlp.down_proj",)),
)
# The router and the shared expert's gate read the same norm: they stay float, but take its scales.
_EXPERT_INPUTS = ("mlp.gate", "mlp.experts.*.gate_proj", "mlp.experts.*.up_proj")
_SHARED_INPUTS = ("mlp.shared_expert_gate", "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj")
_EXPERT_DOWN = Row(Fold.UP_DOWN, "mlp.experts.*.up_proj", ("mlp.experts.*.down_proj",))
MOE = (Row(Fold.NORM_GATE_UP, "post_attention_layernorm", _EXPERT_INPUTS, Kind.NORM), _EXPERT_DOWN)
SHARED_MOE = (
    Row(Fold.NORM_GATE_UP, "post_attention_layernorm", _EXPERT_INPUTS + _SHARED_INPUTS, Kind.NORM),
    _EXPERT_DOWN,
    Row(Fold.UP_DOWN, "mlp.shared_expert.up_proj", ("mlp.shared_expert.down_proj",)),
)


def _one_plus(*tables: tuple[Row, ...]) -> tuple[Row, ...]:
    """With the two norms of a layer as Qwen3-Next has them; the one inside DeltaNet is a plain one there too."""
    return tuple(
        replace(row, kind=Kind.NORM_ONE_PLUS) if row.producer.endswith("layernorm") else row
        for table in tables
        for row in table
    )


FOLDS: Mapping[str, tuple[Row, ...]] = {
    "qwen3": ATTENTION + MLP,
    "qwen3_moe": ATTENTION + MOE + MLP,
    "qwen3_next": _one_plus(ATTENTION, QWEN3_NEXT_DELTANET, SHARED_MOE, MLP),
    "qwen3_5_text": _one_plus(ATTENTION, QWEN3_5_DELTANET, MLP),
    "qwen3_5_moe_text": _one_plus(ATTENTION, QWEN3_5_DELTANET, SHARED_MOE),
}
"""By the text config's model_type. A row belongs to a layer that has the producer and all consumers: layers of one
model differ (attention or DeltaNet, experts or one MLP)."""


def rows_of(layer: nn.Module, model_type: str, folds: tuple[Fold, ...]) -> list[Row]:
    """The rows that apply to a decoder layer (its experts separate), `*` filled in, for the wanted folds."""
    names = {name for name, _ in layer.named_modules()}
    experts = sum(1 for name in names if name.startswith("mlp.experts.") and name.count(".") == 2)
    rows: list[Row] = []
    for row in FOLDS[model_type]:
        filled = [_filled(row, i, i + 1) for i in range(experts)] if "*" in row.producer else [_filled(row, 0, experts)]
        rows += [one for one in filled if row.fold in folds and {one.producer, *one.consumers} <= names]
    return rows


def _filled(row: Row, start: int, stop: int) -> Row:
    """With the numbers of some experts in place of `*`."""
    paths = [path.replace("*", str(i)) for path in row.consumers for i in (range(start, stop) if "*" in path else (0,))]
    return replace(row, producer=row.producer.replace("*", str(start)), consumers=tuple(paths))


def smoothing_scales(activation: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """s [channels], float32, from the largest |x| and |w| of each channel; 1 where either is all zeros."""
    activation, weight = activation.float(), weight.float()
    scale = activation**alpha / weight ** (1 - alpha)
    return torch.where((activation > 0) & (weight > 0), scale, 1.0)


def row_scales(layer: nn.Module, row: Row, activation: Tensor, quantized: set[str], alpha: float) -> Tensor:
    """The scales of one fold [producer channels] from the largest |x| of each column that consumers read.

    `quantized` are the paths in the layer whose weights become int8: the others follow and have no say. Where a norm
    is one head's or heads share their values, the largest of all columns that belong together counts.
    """
    weights = [_weight(layer, path).float().abs().amax(0) for path in row.consumers if path in quantized]
    if not weights:
        return torch.ones(_channels(layer, row), device=activation.device)
    weight = torch.stack(weights).amax(0)
    return smoothing_scales(_gathered(layer, row, activation), _gathered(layer, row, weight), alpha)


@torch.no_grad()
def apply_row(layer: nn.Module, row: Row, scales: Tensor) -> None:
    """Divide the producer's channels by `scales` and multiply the consumers' columns, in place."""
    producer = layer.get_submodule(row.producer)
    for parameter in _divided(producer, row.kind):
        scale = scales.view(-1, *[1] * (parameter.ndim - 1))
        if row.kind is Kind.NORM_ONE_PLUS:
            parameter.copy_((1 + parameter.float()) / scale - 1)
        else:
            parameter.copy_(parameter.float() / scale)
    for path in row.consumers:
        weight = _weight(layer, path)
        weight.copy_(weight.float() * column_scales(layer, row, scales, weight.shape[1]))


def _divided(producer: nn.Module, kind: Kind) -> Iterator[nn.Parameter]:
    yield producer.get_parameter("weight")
    if kind is Kind.LINEAR and getattr(producer, "bias", None) is not None:
        yield producer.get_parameter("bias")


def _weight(layer: nn.Module, path: str) -> nn.Parameter:
    return layer.get_submodule(path).get_parameter("weight")


def _channels(layer: nn.Module, row: Row) -> int:
    return len(_weight(layer, row.producer))


def _gathered(layer: nn.Module, row: Row, columns: Tensor) -> Tensor:
    """The largest of the columns that read each channel of the producer."""
    if row.spread is Spread.SAME:
        return columns
    channels = _channels(layer, row)
    if row.spread is Spread.ALL_HEADS:
        return columns.view(-1, channels).amax(0)
    width = _head_dim(layer, row)
    return columns.view(channels // width, -1, width).amax(1).flatten()


def column_scales(layer: nn.Module, row: Row, scales: Tensor, columns: int) -> Tensor:
    """The scale [columns] of each column of a consumer, from those of the producer's channels."""
    if row.spread is Spread.SAME:
        return scales
    if row.spread is Spread.ALL_HEADS:
        return scales.repeat(columns // len(scales))
    width = _head_dim(layer, row)
    return scales.view(-1, 1, width).expand(-1, columns // len(scales), -1).flatten()


def _head_dim(layer: nn.Module, row: Row) -> int:
    attention = layer.get_submodule(row.producer.rpartition(".")[0])
    width: int = attention.head_dim  # type: ignore[assignment]  # torch types every attribute as a module
    return width
