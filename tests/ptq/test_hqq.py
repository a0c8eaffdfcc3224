"""HQQ against its formulas written out for one group at a time, and against a search over all zero points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ptq.grid import GridWeight, round_to_nearest
from ptq.hqq import hqq
from ptq.recipe import Grid

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def heavy_tailed(rows: int = 24, columns: int = 128, seed: int = 0) -> Tensor:
    """Weights with a few large ones in most groups, and a mean that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 0.02 + 0.005
    return torch.where(torch.rand(rows, columns, generator=generator) < 0.02, weight * 6, weight)


def robust_errors(weight: Tensor, rounded: Tensor, group: int) -> Tensor:
    """sum |w - value|^0.7 of each group [rows, groups]."""
    return (weight.double() - rounded.double()).abs().pow(0.7).unflatten(1, (-1, group)).sum(2)


def published(group: list[float], bits: int, beta: float = 10.0) -> list[float]:
    """The values of one group by the published rounds, in Python's floats, with codes from 0."""
    top = 2**bits - 1
    scale = (max(group) - min(group)) / top
    zero = -min(group) / scale
    best = math.inf
    for _ in range(20):
        q = [min(max(round(w / scale + zero), 0), top) for w in group]
        apart = [w - (k - zero) * scale for w, k in zip(group, q, strict=True)]
        large = [math.copysign(max(abs(d) - abs(d) ** -0.3 / beta, 0), d) if d else 0.0 for d in apart]
        zero = sum(k - (w - e) / scale for w, k, e in zip(group, q, large, strict=True)) / len(group)
        error = sum(abs(d) for d in apart)
        if error >= best:
            break
        best = error
    q = [min(max(round(w / scale + zero), 0), top) for w in group]
    return [(k - zero) * scale for k in q]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_one_group_is_at_least_as_good_as_by_the_published_rounds(bits: int):
    weight = heavy_tailed()
    for row in weight:
        group = row[None]
        ours = robust_errors(group, hqq(group, Grid(bits, 128), torch.float32).dequantized(), 128)
        theirs = robust_errors(group, torch.tensor([published(row.double().tolist(), bits)]), 128)
        assert ours <= theirs * (1 + 1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_comes_near_the_best_zero_point_of_all(bits: int):
    """Over all groups the robust error is within 10 % of the smallest that any zero point gives with these scales."""
    weight = heavy_tailed()
    found = hqq(weight, Grid(bits, 32), torch.float32)
    grouped, scale = weight.unflatten(1, (-1, 32)), found.scale[..., None]
    best = torch.full(found.scale.shape, math.inf)
    for zero in torch.linspace(-(2 ** (bits - 1)) - 0.5, 2 ** (bits - 1) + 0.5, 400):
        q = torch.round(grouped / scale + zero).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        best = torch.minimum(best, (grouped - (q - zero) * scale).abs().pow(0.7).sum(2))
    ours = robust_errors(weight, found.dequantized(), 32)
    assert float(ours.sum() / best.sum()) <= 1.1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_no_group_is_worse_than_rounded_to_nearest(bits: int, dtype: torch.dtype):
    for weight in (heavy_tailed(), heavy_tailed() + 0.3, torch.zeros(2, 64), torch.full((2, 64), 0.7)):
        grid = Grid(bits, 32)
        ours = robust_errors(weight, hqq(weight, grid, dtype).dequantized(), 32)
        nearest = robust_errors(weight, round_to_nearest(weight, grid, dtype).dequantized(), 32)
        assert (ours <= nearest * (1 + 1e-6)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_bits_are_never_worse(dtype: torch.dtype):
    weight = heavy_tailed()
    errors = [
        float(robust_errors(weight, hqq(weight, Grid(b, 64), dtype).dequantized(), 64).sum()) for b in range(2, 9)
    ]
    assert errors == sorted(errors, reverse=True)


def test_low_bits_gain_over_round_to_nearest():
    weight, grid = heavy_tailed(), Grid(2, 64)
    ours = robust_errors(weight, hqq(weight, grid, torch.bfloat16).dequantized(), 64).sum()
    assert ours < 0.97 * robust_errors(weight, round_to_nearest(weight, grid, torch.bfloat16).dequantized(), 64).sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_reader_of_what_is_stored_gets_the_same_values(bits: int, dtype: torch.dtype):
    """Codes are signed and fit their bits, and each is the nearest for the scale and zero point that are stored."""
    weight = heavy_tailed()
    found = hqq(weight, Grid(bits, 32), dtype)
    assert found.scale.dtype == dtype
    assert found.zero is not None
    assert found.zero.dtype == dtype
    assert found.codes.dtype == torch.int8
    assert int(found.codes.min()) >= -(2 ** (bits - 1))
    assert int(found.codes.max()) < 2 ** (bits - 1)
    scale, zero = (stored.float().repeat_interleave(32, 1) for stored in (found.scale, found.zero))
    assert torch.equal(found.dequantized(), ((found.codes.float() - zero) * scale).to(dtype))
    for other in (found.codes.float() - 1, found.codes.float() + 1):
        inside = (other >= -(2 ** (bits - 1))) & (other < 2 ** (bits - 1))
        apart = (weight - (found.codes.float() - zero) * scale).abs()
        assert (apart <= (weight - (other - zero) * scale).abs() + 1e-6)[inside].all()


def test_groups_do_not_influence_each_other_beyond_the_number_of_rounds():
    weight = heavy_tailed(columns=64)
    together = hqq(torch.cat([weight, weight], 1), Grid(3, 64), torch.float32)
    alone = hqq(weight, Grid(3, 64), torch.float32)
    assert torch.equal(together.codes, torch.cat([alone.codes, alone.codes], 1))


def test_a_whole_row_can_be_one_group():
    found = hqq(heavy_tailed(), Grid(4), torch.float16)
    assert found.scale.shape == (24, 1)
    assert isinstance(found, GridWeight)


def test_a_symmetric_grid_is_an_error():
    with pytest.raises(ValueError, match="symmetric"):
        hqq(heavy_tailed(), Grid(4, 32, symmetric=True), torch.float32)
