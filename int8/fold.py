"""Smoothing scales, and the arithmetic of folding them into weights. Where they go is in architectures.py.

A producer's output channels are divided by s, and the columns of all weights that read them are multiplied by s, so the
function of the model does not change. Method: SmoothQuant (arXiv 2211.10438), with
s = max|x|^alpha / max|w|^(1 - alpha) per channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from int8.architectures import FoldRule, ProducerKind, Spread, architecture
from int8.recipe import Fold


def fold_rules(layer: nn.Module, model_type: str, folds: tuple[Fold, ...]) -> list[FoldRule]:
    """The rules of the chosen folds that apply to a decoder layer (with separate experts), with `*` replaced."""
    known = architecture(model_type)
    assert known is not None
    return matching_rules(layer, known.folds, folds)


def matching_rules(layer: nn.Module, table: tuple[FoldRule, ...], folds: tuple[Fold, ...]) -> list[FoldRule]:
    """The rules of a table for the chosen folds that apply to a layer or another part, with `*` replaced."""
    names = {name for name, _ in layer.named_modules()}
    experts = sum(1 for name in names if name.startswith("mlp.experts.") and name.count(".") == 2)
    rules: list[FoldRule] = []
    for rule in table:
        filled = (
            [_filled(rule, i, i + 1) for i in range(experts)] if "*" in rule.producer else [_filled(rule, 0, experts)]
        )
        rules += [one for one in filled if rule.fold in folds and {one.producer, *one.consumers} <= names]
    return rules


def _filled(rule: FoldRule, start: int, stop: int) -> FoldRule:
    """The rule with expert numbers from `start` to `stop` in place of `*`."""
    paths = [
        path.replace("*", str(i)) for path in rule.consumers for i in (range(start, stop) if "*" in path else (0,))
    ]
    return replace(rule, producer=rule.producer.replace("*", str(start)), consumers=tuple(paths))


def smoothing_scales(activation: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """s, float32 [channels], from the largest |x| and |w| of each channel; 1 if either is all zeros."""
    activation, weight = activation.float(), weight.float()
    scale = activation**alpha / weight ** (1 - alpha)
    return torch.where((activation > 0) & (weight > 0), scale, 1.0)


def fold_scales(layer: nn.Module, rule: FoldRule, activation: Tensor, quantized: set[str], alpha: float) -> Tensor:
    """The scales of one fold [producer channels], from the largest |x| of each column that consumers read.

    `quantized` are the paths of weights in the layer that become int8. Other consumers take the scales, but do not
    influence them. If several columns read the same channel (a norm for one head, heads that share values), the largest
    counts.
    """
    weights = [_weight(layer, path).float().abs().amax(0) for path in rule.consumers if path in quantized]
    if not weights:
        return torch.ones(channels(layer, rule), device=activation.device)
    weight = torch.stack(weights).amax(0)
    x, w = (readers(layer, rule, columns).amax(1) for columns in (activation, weight))
    return smoothing_scales(x, w, alpha)


@torch.no_grad()
def apply_fold(layer: nn.Module, rule: FoldRule, scales: Tensor) -> None:
    """Divide the producer's channels by `scales` and multiply the consumers' columns, in place."""
    producer = layer.get_submodule(rule.producer)
    for parameter in _divided(producer, rule.kind):
        scale = scales.view(-1, *[1] * (parameter.ndim - 1))
        if rule.kind is ProducerKind.NORM_ONE_PLUS:
            parameter.copy_((1 + parameter.float()) / scale - 1)
        else:
            parameter.copy_(parameter.float() / scale)
    for path in rule.consumers:
        weight = _weight(layer, path)
        weight.copy_(weight.float() * column_scales(layer, rule, scales, weight.shape[1]))


def _divided(producer: nn.Module, kind: ProducerKind) -> Iterator[Tensor]:
    for name in ("weight", "bias"):
        if getattr(producer, name, None) is not None:
            parameter = producer.get_parameter(name)
            yield parameter[-len(parameter) // 3 :] if kind is ProducerKind.VALUES else parameter


def _weight(layer: nn.Module, path: str) -> nn.Parameter:
    return layer.get_submodule(path).get_parameter("weight")


def channels(layer: nn.Module, rule: FoldRule) -> int:
    """The number of the producer's output channels, which is that of the scales."""
    rows = len(_weight(layer, rule.producer))
    return rows // 3 if rule.kind is ProducerKind.VALUES else rows


def readers(layer: nn.Module, rule: FoldRule, columns: Tensor) -> Tensor:
    """The values of a consumer's columns [columns], by the channel of the producer that they read [channels, each]."""
    if rule.spread is Spread.SAME:
        return columns[:, None]
    count = channels(layer, rule)
    if rule.spread is Spread.ALL_HEADS:
        return columns.view(-1, count).T
    width = _head_dim(layer, rule)
    return columns.view(count // width, -1, width).transpose(1, 2).flatten(0, 1)


def column_scales(layer: nn.Module, rule: FoldRule, scales: Tensor, columns: int) -> Tensor:
    """The scale of each column of a consumer [columns], from the scales of the producer's channels."""
    if rule.spread is Spread.SAME:
        return scales
    if rule.spread is Spread.ALL_HEADS:
        return scales.repeat(columns // len(scales))
    width = _head_dim(layer, rule)
    return scales.view(-1, 1, width).expand(-1, columns // len(scales), -1).flatten()


def _head_dim(layer: nn.Module, rule: FoldRule) -> int:
    attention = layer.get_submodule(rule.producer.rpartition(".")[0])
    width: int = attention.head_dim  # type: ignore[assignment]  # torch types every attribute as a module
    return width
