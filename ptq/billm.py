"""BiLLM: weights become signs; important columns get a second sign, and the others are split into two groups.

Source: Huang et al., arXiv 2402.04291, in the way of its published code (github.com/Aaronhuang-778/BiLLM). Columns are
binarized in blocks, and later blocks make up for the error as in GPTQ. A column is salient by the sum of its weights'
saliency, w^2 / U_jj^2, with H^-1 = U^T U.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.binary import FIRST, LARGE, SECOND, SMALL, TERMS, BinaryWeight
from ptq.gptq import inverse_root
from ptq.recipe import Masks

MOST_SALIENT = 49  # columns per block
LOWEST_SPLIT, HIGHEST_SPLIT, SPLITS = 0.1, 0.9, 81  # the quantiles that are tried


@dataclass(frozen=True)
class BillmSettings:
    """`damp`: the share of the mean of H's diagonal added to it; `block`: columns per block; `masks`: see `Masks`."""

    damp: float = 0.01
    block: int = 128
    masks: Masks = Masks.SALIENCY


@dataclass(frozen=True)
class BillmWeight:
    """The result: the weight, and whether more damping than asked for was needed."""

    weight: BinaryWeight
    damped_more: bool = False


def billm(weight: Tensor, hessian: Tensor, dtype: torch.dtype, settings: BillmSettings, where: str) -> BillmWeight:
    """Binarize a weight [rows, columns] (float32), with means and scales in `dtype`.

    `hessian` is [columns, columns], float32; neither argument is changed. The weights of a column whose input is always
    0 are kept for what they are, where the published code sets them to 0. Raises InputError that begins with `where` if
    H is not positive definite even with ten times the damping.
    """
    work = weight.float().clone()
    upper, damped_more = inverse_root(hessian.float().clone(), settings.damp, where)
    diagonal = torch.diag(upper)
    blocks: list[BinaryWeight] = []
    for start in range(0, work.shape[1], settings.block):
        stop = min(start + settings.block, work.shape[1])
        part = work[:, start:stop]
        saliency = (part / diagonal[start:stop]) ** 2
        target = part if settings.masks is Masks.WEIGHTS else saliency
        salient = salient_columns(target, saliency)
        binary = _binarized(part, salient, large_weights(target, salient), dtype)
        errors = (part - binary.dequantized().float()) / diagonal[start:stop]
        work[:, stop:] -= errors @ upper[start:stop, stop:]
        blocks.append(binary)
    return BillmWeight(_joined(blocks, settings.block), damped_more)


def salient_columns(target: Tensor, saliency: Tensor) -> Tensor:
    """The salient columns, bool [columns], of a block: the first 1 to 49 by the sums of `saliency` [rows, columns].

    Their number is the one with which two terms for each row of the salient columns, and two for each row of the
    others, give the smallest squared error of `target` [rows, columns].
    """
    order = torch.argsort(saliency.sum(0), descending=True, stable=True)
    ordered = _normal(target)[:, order]
    most = max(1, min(MOST_SALIENT, len(order) - 1))
    errors = [_two_term_error(ordered[:, :count]) + _two_term_error(ordered[:, count:]) for count in range(1, most + 1)]
    chosen = torch.zeros_like(order, dtype=torch.bool)
    chosen[order[: int(torch.stack(errors).argmin()) + 1]] = True
    return chosen


def large_weights(target: Tensor, salient: Tensor) -> Tensor:
    """Which weights are in the group of large ones, bool [rows, columns]; none in salient columns.

    They are those whose |target| is at least one of 81 quantiles, the one with which two groups with a mean and a scale
    for each row give the smallest squared error of `target`. As in the published code, the quantiles are those of all
    columns, with 0 in place of the salient ones.
    """
    normal = _normal(target)
    sizes = normal.abs().masked_fill(salient, 0)
    usual, usual_sizes = normal[:, ~salient], sizes[:, ~salient]
    splits = _quantiles(sizes.flatten(), torch.linspace(LOWEST_SPLIT, HIGHEST_SPLIT, SPLITS, device=sizes.device))
    gains = torch.stack([_gain(usual, usual_sizes >= split) for split in splits])
    return (sizes >= splits[gains.argmax()]) & ~salient


def _normal(target: Tensor) -> Tensor:
    """The target with its largest value 1: the choices stay the same, and no square is too large or small to count."""
    largest = target.abs().max()
    return target / torch.where(largest > 0, largest, 1)


def _quantiles(values: Tensor, shares: Tensor) -> Tensor:
    """Quantiles of values [n], with linear interpolation. (torch.quantile accepts only 2^24 values.)"""
    ordered = values.sort().values
    places = shares.double() * (len(values) - 1)
    below = places.floor().long()
    above = (below + 1).clamp_max(len(values) - 1)
    return torch.lerp(ordered[below].double(), ordered[above].double(), places - below).to(values.dtype)


def _gain(x: Tensor, large: Tensor) -> Tensor:
    """How much two groups with a mean and a scale per row take off the sum of squares of x [rows, columns].

    For n weights with mean m and scale s = mean |x - m| the squared error is sum x^2 - n m^2 - n s^2.
    """
    mask = large.to(x.dtype)
    count = mask.sum(1)
    counts = torch.stack([x.shape[1] - count, count])
    whole, part = x.sum(1), (x * mask).sum(1)
    sums = torch.stack([whole - part, part])
    mean = sums / counts.clamp_min(1)
    apart = (x - torch.where(large, mean[1, :, None], mean[0, :, None])).abs()
    whole, part = apart.sum(1), (apart * mask).sum(1)
    scale = torch.stack([whole - part, part]) / counts.clamp_min(1)
    return (counts * (mean**2 + scale**2)).sum(dtype=torch.float64)


def _two_term_error(x: Tensor) -> Tensor:
    """The squared error of x [rows, columns] as two terms per row."""
    first, _, _ = _term(x)
    rest = x - first
    return (rest - _term(rest)[0]).square().sum(dtype=torch.float64)


def _term(x: Tensor, mask: Tensor | None = None, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """x [rows, columns] as mean + sign * scale; with the mean and scale [rows, 1] of the weights in `mask`, in `dtype`.

    Both are 0 for a row without weights.
    """
    count = torch.full_like(x[:, :1], x.shape[1]) if mask is None else mask.sum(1, keepdim=True)
    inside = x if mask is None else x * mask
    mean = inside.sum(1, keepdim=True) / count.clamp_min(1)
    mean = mean if dtype is None else mean.to(dtype).float()
    apart = (x - mean).abs() if mask is None else (x - mean).abs() * mask
    scale = apart.sum(1, keepdim=True) / count.clamp_min(1)
    scale = scale if dtype is None else scale.to(dtype).float()
    return torch.where(x >= mean, mean + scale, mean - scale), mean, scale


def _binarized(x: Tensor, salient: Tensor, large: Tensor, dtype: torch.dtype) -> BinaryWeight:
    """A block of weights [rows, columns] as a binary weight. Second terms fit what stored first ones leave."""
    fitted = {term: _term(x, mask, dtype) for term, mask in ((SMALL, ~salient & ~large), (LARGE, large))}
    fitted[FIRST] = _term(x, salient.expand_as(x), dtype)
    rest = x - fitted[FIRST][0]
    fitted[SECOND] = _term(rest, salient.expand_as(x), dtype)
    mean, scale = (torch.cat([fitted[term][part] for term in range(TERMS)], 1) for part in (1, 2))
    usual_mean = torch.where(large, fitted[LARGE][1], fitted[SMALL][1])
    signs = x >= torch.where(salient, fitted[FIRST][1], usual_mean)
    bits = torch.where(salient, rest >= fitted[SECOND][1], large)
    return BinaryWeight(signs, bits, salient, mean[:, None].to(dtype), scale[:, None].to(dtype), x.shape[1])


def _joined(blocks: list[BinaryWeight], block: int) -> BinaryWeight:
    signs, bits, mean, scale = (
        torch.cat([getattr(one, name) for one in blocks], 1) for name in ("signs", "bits", "mean", "scale")
    )
    return BinaryWeight(signs, bits, torch.cat([one.salient for one in blocks]), mean, scale, block)
