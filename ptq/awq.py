"""AWQ: scales of channels and smaller ranges of weights, chosen by the error of the outputs over a calibration text.

Source: Lin et al., arXiv 2306.00978, and its code. Channels that are large in the inputs get larger weights before
these are rounded, so that they lose less; s = x^r with x = mean |X| of a channel, and r by a search. Then each group's
range is cut if that makes the error of the outputs smaller.

By default errors are those of the linear layers' outputs, tr(dW H dW^T), which need no tokens. `output_loss` is the
published error, that of the output of attention or MLP. Values that several query heads share have one scale, so o_proj
is scaled under grouped-query attention too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from int8.architectures import FoldRule
from int8.fold import channels, column_scales, readers
from ptq.gptq import layer_error
from ptq.grid import round_to_nearest, spread
from ptq.hessian import InputSums
from ptq.recipe import Grid

LEAST_SCALE = 1e-4  # of a channel without input
LEAST_SHARE = 1e-6  # of a weight that is all zeros
CLIP_STEPS, CLIP_PARTS = 10, 20  # ranges of 1 - i / 20 for i < 10
NOT_CLIPPED = ("q_proj", "k_proj", "in_proj_qkv", "in_proj_qkvz", "qkv")
"""Linear layers that give queries or keys: attention multiplies these, so errors of outputs say less about them."""

Loss = Callable[[Mapping[str, Tensor]], float]
"""The error for rounded weights, which are given by the paths of their linear layers in the decoder layer."""


@dataclass(frozen=True)
class ScaleSearch:
    """The scales that are tried, besides 1: x^r for every r in `ratios`.

    With `weights` they are x^r / (w^(1 - r) + 0.0001), where w is the mean share that a column's weights have of the
    largest in their group.
    """

    ratios: tuple[float, ...]
    weights: bool = False


PUBLISHED = ScaleSearch(tuple(i / 20 for i in range(1, 20)))
WITH_WEIGHTS = ScaleSearch(tuple(i / 18 for i in range(19)), weights=True)
"""The search of llm-compressor, whose formula is AutoAWQ's."""


def awq_scales(
    layer: nn.Module,
    rule: FoldRule,
    sums: Mapping[str, InputSums],
    grid: Grid,
    quantized: set[str],
    dtype: torch.dtype,
    *,
    search: ScaleSearch = PUBLISHED,
    loss: Loss | None = None,
) -> Tensor:
    """The scales of one fold, float32 [producer channels], for weights that are rounded to `grid`, scales in `dtype`.

    `quantized` are the paths of linear layers that are rounded; `sums` has their inputs. Other consumers take the
    scales, but do not influence them. Weights are rounded to nearest, with the whole range. By default the loss is
    `hessian_loss`.
    """
    paths = [path for path in rule.consumers if path in quantized]
    if not paths:
        return torch.ones(channels(layer, rule), device=_weight(layer, rule.producer).device)
    grid = replace(grid, search=False)
    measured = loss or hessian_loss(layer, sums)
    weights = {path: _weight(layer, path).float() for path in paths}

    def error(scales: Tensor) -> float:
        return measured(
            {
                path: _rounded(weight, column_scales(layer, rule, scales, weight.shape[1]), grid, dtype)
                for path, weight in weights.items()
            }
        )

    return min(_candidates(layer, rule, weights, sums, grid, search), key=error)


def hessian_loss(layer: nn.Module, sums: Mapping[str, InputSums]) -> Loss:
    """The squared error of the outputs of linear layers, over all tokens that each of them read."""

    def loss(rounded: Mapping[str, Tensor]) -> float:
        return sum(layer_error(_weight(layer, path), values, sums[path].second) for path, values in rounded.items())

    return loss


def output_loss(layer: nn.Module, run: Callable[[], Iterable[Tensor]]) -> Loss:
    """The squared error of the outputs that `run` computes with the layer's weights, batch by batch.

    `run` is called once now, and once for each candidate. See `ModuleCalls` and `compared_module`.
    """
    expected = list(run())

    def loss(rounded: Mapping[str, Tensor]) -> float:
        with _replaced(layer, rounded):
            return sum(float((out - want).square().sum()) for out, want in zip(run(), expected, strict=True))

    return loss


def compared_module(rule: FoldRule) -> str:
    """The path of the module whose output the published loss compares: the smallest that has all consumers."""
    first, *others = (path.split(".") for path in rule.consumers)
    common = [part for part, *rest in zip(first, *others, strict=False) if all(part == one for one in rest)]
    return ".".join(common)


@contextmanager
def _replaced(layer: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    before = {path: _weight(layer, path).data for path in values}
    try:
        for path, value in values.items():
            _weight(layer, path).data = value
        yield
    finally:
        for path, value in before.items():
            _weight(layer, path).data = value


def _candidates(
    layer: nn.Module,
    rule: FoldRule,
    weights: Mapping[str, Tensor],
    sums: Mapping[str, InputSums],
    grid: Grid,
    search: ScaleSearch,
) -> Iterator[Tensor]:
    distinct = list({id(sums[path]): sums[path] for path in weights}.values())
    total = torch.stack([one.magnitude for one in distinct]).sum(0)
    x = readers(layer, rule, total / sum(one.tokens for one in distinct)).mean(1)
    yield torch.ones_like(x)
    share = readers(layer, rule, _mean_share(list(weights.values()), grid)).mean(1) if search.weights else None
    for ratio in search.ratios:
        scales = x**ratio if share is None else x**ratio / (share ** (1 - ratio) + LEAST_SCALE)
        scales = scales.clamp_min(LEAST_SCALE)
        yield (scales / (scales.max() * scales.min()).sqrt()).float()


def _mean_share(weights: list[Tensor], grid: Grid) -> Tensor:
    """Per column [columns], the mean over all rows of |w| as a share of the largest |w| in its group, float64."""
    total = torch.zeros(weights[0].shape[1], dtype=torch.float64, device=weights[0].device)
    for weight in weights:
        magnitudes = weight.abs().unflatten(1, (grid.groups(weight.shape[1]), -1))
        total += (magnitudes / (magnitudes.amax(2, keepdim=True) + LEAST_SHARE)).flatten(1).sum(0, dtype=torch.float64)
    return total / sum(map(len, weights))


def _rounded(weight: Tensor, scales: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """A weight whose columns were multiplied by `scales`, rounded, and divided again, float32."""
    return round_to_nearest(weight * scales, grid, dtype).dequantized().float() / scales


def _weight(layer: nn.Module, path: str) -> nn.Parameter:
    return layer.get_submodule(path).get_parameter("weight")


def is_clipped(path: str) -> bool:
    """Whether AWQ cuts the ranges of the linear layer with this path: all but queries and keys."""
    return path.rpartition(".")[2] not in NOT_CLIPPED


def clip_limits(weight: Tensor, hessian: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """The largest |w| to keep in each group [rows, groups], by the error of the group's part of the outputs.

    That error is dw H dw^T over the group's columns, so that it needs no tokens. `weight` [rows, columns] is float32.
    """
    grid = replace(grid, search=False)
    grouped = weight.unflatten(1, (grid.groups(weight.shape[1]), -1))
    sizes = (grouped.shape[1], grouped.shape[2])
    blocks = hessian.view(*sizes, *sizes).diagonal(dim1=0, dim2=2).movedim(2, 0)  # [groups, width, width]
    whole = grouped.abs().amax(2)
    limits, lowest = whole, torch.full_like(whole, torch.inf)
    for step in range(CLIP_STEPS):
        limit = whole * (1 - step / CLIP_PARTS)
        wide = limit[..., None]
        rounded = round_to_nearest(grouped.clamp(-wide, wide).flatten(1), grid, dtype).dequantized().float()
        wrong = (rounded.view_as(grouped) - grouped).transpose(0, 1)  # [groups, rows, width]
        error = (torch.bmm(wrong, blocks) * wrong).sum(2).T
        limits = torch.where(error < lowest, limit, limits)
        lowest = torch.minimum(error, lowest)
    return limits


def clipped(weight: Tensor, hessian: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """A weight [rows, columns], float32, with every group cut to `clip_limits`."""
    limits = spread(clip_limits(weight, hessian, grid, dtype), weight.shape[1])
    return weight.clamp(-limits, limits)
