"""Smoothing scales, and the arithmetic of folding them in; where they go is in architectures.py.

A producer's output channels are divided by s and the columns of all that reads them multiplied by s, so the model's
function stays. Method: SmoothQuant (arXiv 2211.10438), s = max|x|^alpha / max|w|^(1 - alpha) for each channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from int8.architectures import ARCHITECTURES, ProducerKind, Row, Spread
from int8.recipe import Fold


def rows_of(layer: nn.Module, model_type: str, folds: tuple[Fold, ...]) -> list[Row]:
    """The rows that apply to a decoder layer (its experts separate), `*` filled in, for the wanted folds."""
    names = {name for name, _ in layer.named_modules()}
    experts = sum(1 for name in names if name.startswith("mlp.experts.") and name.count(".") == 2)
    rows: list[Row] = []
    for row in ARCHITECTURES[model_type].folds:
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
        if row.kind is ProducerKind.NORM_ONE_PLUS:
            parameter.copy_((1 + parameter.float()) / scale - 1)
        else:
            parameter.copy_(parameter.float() / scale)
    for path in row.consumers:
        weight = _weight(layer, path)
        weight.copy_(weight.float() * column_scales(layer, row, scales, weight.shape[1]))


def _divided(producer: nn.Module, kind: ProducerKind) -> Iterator[nn.Parameter]:
    yield producer.get_parameter("weight")
    if kind is ProducerKind.LINEAR and getattr(producer, "bias", None) is not None:
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
