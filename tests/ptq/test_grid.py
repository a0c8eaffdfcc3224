"""Grids: by brute force, each code is the nearest, and the searched ranges are the best of the candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ptq.grid import limits, round_to_nearest, values
from ptq.recipe import Grid

GRIDS = [Grid(bits, group, symmetric) for bits in (2, 3, 4, 8) for group in (0, 16) for symmetric in (False, True)]


def weights(seed: int = 0, rows: int = 5, columns: int = 32) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("grid", GRIDS)
def test_each_code_is_the_nearest_of_all(grid: Grid):
    weight = weights()
    found = round_to_nearest(weight, grid, torch.float32)
    lowest, highest = limits(grid.bits)
    groups = found.scale.shape[1]
    assert groups == (2 if grid.group else 1)
    every = torch.arange(lowest, highest + 1, dtype=torch.int8)
    for row in range(len(weight)):
        for column in range(weight.shape[1]):
            place = column // (weight.shape[1] // groups)
            zero = None if found.zero is None else found.zero[row, place]
            distances = (values(every, found.scale[row, place], zero) - weight[row, column]).abs()
            chosen = distances[int(found.codes[row, column]) - lowest]
            assert chosen <= distances.min() + 1e-7


def test_the_ends_of_the_range_and_zero_are_on_an_asymmetric_grid():
    weight = torch.tensor([[-1.0, 0.4, 0.25, 2.0]])
    found = round_to_nearest(weight, Grid(2), torch.float32)
    assert found.scale.item() == 1.0
    assert found.dequantized().tolist() == [[-1.0, 0.0, 0.0, 2.0]]
    positive = round_to_nearest(torch.tensor([[0.4, 1.0, 1.6, 3.0]]), Grid(2), torch.float32)
    assert positive.dequantized().tolist() == [[0.0, 1.0, 2.0, 3.0]]  # the range contains 0


def test_a_symmetric_scale_is_that_of_the_gptq_family():
    found = round_to_nearest(torch.tensor([[-1.5, 0.2, 1.0]]), Grid(4, symmetric=True), torch.float32)
    assert found.scale.item() == pytest.approx(2 * 1.5 / 15)
    assert found.zero is None


def test_scales_and_values_are_those_of_the_stored_dtype():
    found = round_to_nearest(weights(), Grid(4, 16), torch.bfloat16)
    assert found.scale.dtype == torch.bfloat16
    exact = (found.codes.float() - found.zero.float().repeat_interleave(16, 1)) * found.scale.float().repeat_interleave(
        16, 1
    )
    assert torch.equal(found.dequantized(), exact.to(torch.bfloat16))


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_searched_range_is_the_best_of_the_candidates(symmetric: bool):
    weight = weights(seed=3)
    weight[:, 5] *= 6  # an outlier, for which a smaller range is better
    plain = round_to_nearest(weight, Grid(3, 16, symmetric), torch.float32)
    found = round_to_nearest(weight, Grid(3, 16, symmetric, search=True), torch.float32)

    def error(values: Tensor) -> Tensor:
        return (values - weight).abs().pow(2.4).unflatten(1, (2, 16)).sum(2)

    best = torch.full((5, 2), torch.inf)
    for step in range(80):
        share = 1 - step / 100
        tried = round_to_nearest(weight, Grid(3, 16, symmetric), torch.float32)
        low, high = torch.aminmax(weight.unflatten(1, (2, 16)), dim=2)
        low, high = (low * share).clamp_max(0), (high * share).clamp_min(0)
        scale = torch.maximum(-low, high) * 2 / 7 if symmetric else (high - low) / 7
        zero = torch.zeros_like(scale) if symmetric else torch.round(-4 - low / scale).clamp(-4, 3)
        wide, wide_zero = scale.repeat_interleave(16, 1), zero.repeat_interleave(16, 1)
        q = torch.round(weight / wide + wide_zero).clamp(-4, 3)
        best = torch.minimum(best, error((q - wide_zero) * wide))
        assert tried.codes.shape == q.shape
    torch.testing.assert_close(error(found.dequantized()), best)
    assert error(found.dequantized()).sum() < error(plain.dequantized()).sum()


def test_more_bits_and_asymmetry_are_never_worse_in_squared_error():
    for seed in range(5):
        weight = weights(seed) + 0.03
        errors = [
            (round_to_nearest(weight, Grid(bits, 16), torch.float32).dequantized() - weight).square().sum()
            for bits in range(2, 9)
        ]
        assert errors == sorted(errors, reverse=True)
        for bits in (2, 3, 4):
            symmetric = round_to_nearest(weight, Grid(bits, 16, symmetric=True), torch.float32).dequantized()
            assert errors[bits - 2] <= (symmetric - weight).square().sum()


def test_a_group_of_zeros_stays_zero():
    weight = torch.zeros(2, 32)
    weight[0, 20] = 1
    for grid in GRIDS:
        found = round_to_nearest(weight, grid, torch.bfloat16).dequantized()
        assert torch.isfinite(found).all()
        assert torch.equal(found[1], torch.zeros(32, dtype=torch.bfloat16))
