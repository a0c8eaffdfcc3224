"""GPTQ and GPTAQ against their formulas written plainly, and their properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from converters.errors import InputError
from ptq.gptq import GptqSettings, gptq, layer_error
from ptq.grid import codes, fitted, round_to_nearest, values
from ptq.hessian import InputSums
from ptq.recipe import Grid, Order, recipe
from ptq.rounding import Task, round_weight

WIDTH, ROWS = 48, 20
HERE = "model.layers.0.mlp.up_proj"


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(seed: int = 0, tokens: int = 400) -> Tensor:
    """Correlated inputs [tokens, WIDTH]."""
    return random(tokens, WIDTH, seed=seed) @ random(WIDTH, WIDTH, seed=seed + 1) * 0.2


def hessian(x: Tensor) -> Tensor:
    return 2 / len(x) * x.T @ x


def rounded(weight: Tensor, matrix: Tensor, grid: Grid, **settings: object) -> Tensor:
    return gptq(weight, matrix, grid, torch.float32, GptqSettings(**settings), HERE).weight.dequantized()


def plainly(weight: Tensor, matrix: Tensor, grid: Grid, order: Order, damp: float = 0.01) -> Tensor:
    """GPTQ column by column in float64, by the formulas of the paper: no blocks."""
    count = weight.shape[1]
    places = torch.arange(count)
    if order is not Order.NONE:
        places = torch.argsort(matrix.diag(), descending=True, stable=True)
    w, h = weight.double()[:, places], matrix.double()[places][:, places]
    h = h + damp * h.diag().mean() * torch.eye(count)
    upper = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    width = grid.group or count
    scale, zero = fitted(weight, grid, torch.float32)
    out = torch.zeros_like(w)
    for j in range(count):
        group = int(places[j]) // width if order is Order.STATIC else j // width
        if order is not Order.STATIC and j % width == 0 and grid.group:
            now = fitted(w[:, j : j + width].float(), Grid(grid.bits, 0, grid.symmetric), torch.float32)
            scale[:, group], zero[:, group] = now[0][:, 0], now[1][:, 0]
        q = codes(w[:, j], scale[:, group], zero[:, group], grid.bits)
        out[:, j] = values(q, scale[:, group], zero[:, group])
        w[:, j:] -= ((w[:, j] - out[:, j]) / upper[j, j])[:, None] * upper[j, j:]
    return out[:, torch.argsort(places)].float()


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("group", [0, 16])
def test_columns_are_rounded_as_the_paper_says(order: Order, group: int):
    weight, matrix = random(ROWS, WIDTH, seed=5), hessian(inputs())
    for bits in (2, 4):
        grid = Grid(bits, group)
        expected = plainly(weight, matrix, grid, order)
        for block in (16, 128):
            found = rounded(weight, matrix, grid, order=order, block=block)
            # float32 moves a few values to the other side of a tie, and what follows with them
            assert (~torch.isclose(found, expected, rtol=1e-3, atol=1e-3)).float().mean() < 0.02
            errors = [layer_error(weight, one, matrix) for one in (found, expected)]
            assert errors[0] == pytest.approx(errors[1], rel=0.02)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("grid", [Grid(2), Grid(3, 16), Grid(4, 16, symmetric=True), Grid(8)])
def test_the_error_is_below_that_of_plain_rounding_and_the_right_hessian_matters(order: Order, grid: Grid):
    for seed in range(4):
        weight, matrix = random(ROWS, WIDTH, seed=seed), hessian(inputs(seed))
        plain = layer_error(weight, round_to_nearest(weight, grid, torch.float32).dequantized(), matrix)
        error = layer_error(weight, rounded(weight, matrix, grid, order=order), matrix)
        assert error < plain
        shuffled = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(seed))
        wrong = rounded(weight, matrix[shuffled][:, shuffled], grid, order=order)
        assert error < layer_error(weight, wrong, matrix)


def test_more_bits_are_never_worse():
    weight, matrix = random(ROWS, WIDTH, seed=8), hessian(inputs(3))
    errors = [layer_error(weight, rounded(weight, matrix, Grid(bits, 16)), matrix) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


def test_with_independent_inputs_it_is_plain_rounding():
    weight, grid = random(ROWS, WIDTH, seed=2), Grid(3, 16)
    found = rounded(weight, torch.eye(WIDTH) * 3, grid, order=Order.STATIC)
    assert torch.equal(found, round_to_nearest(weight, grid, torch.float32).dequantized())


def test_a_column_without_input_is_rounded_to_nearest_and_harms_no_other():
    """Elsewhere it becomes 0, which zeroes experts that no token reached."""
    x = inputs()
    x[:, 7] = 0
    weight, grid = random(ROWS, WIDTH, seed=4), Grid(4)
    found = rounded(weight, hessian(x), grid)
    assert torch.equal(found[:, 7], round_to_nearest(weight, grid, torch.float32).dequantized()[:, 7])
    assert layer_error(weight, found, hessian(x)) < layer_error(
        weight, round_to_nearest(weight, grid, torch.float32).dequantized(), hessian(x)
    )


def test_a_hessian_that_is_not_positive_definite_gets_more_damping_once():
    weight, matrix = random(ROWS, WIDTH, seed=4), hessian(inputs())
    matrix -= torch.eye(WIDTH) * (matrix.diag().mean() * 0.05 + torch.linalg.eigvalsh(matrix)[0])
    found = gptq(weight, matrix, Grid(4), torch.float32, GptqSettings(), HERE)
    assert found.damped_more
    assert not gptq(weight, hessian(inputs()), Grid(4), torch.float32, GptqSettings(), HERE).damped_more
    with pytest.raises(
        InputError, match=rf"^{HERE}: .*not positive definite with damp 0\.1\); use more samples"
    ) as caught:
        gptq(weight, matrix - torch.eye(WIDTH) * matrix.diag().mean(), Grid(4), torch.float32, GptqSettings(), HERE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gptq:w4", "billm"])
def test_the_error_names_the_number_of_tokens(name: str) -> None:
    sums = InputSums(1234, -torch.eye(WIDTH), torch.ones(WIDTH), torch.ones(WIDTH))
    task = Task(random(ROWS, WIDTH, seed=4), sums, recipe(name), torch.float32, HERE)
    with pytest.raises(InputError, match=rf"^{HERE} \(1,234 calibration tokens\): .*not positive definite"):
        round_weight(task)


def test_gptaq_follows_its_formula():
    """Column by column, W takes e U from what follows, and adds w P, with P = 0.25 triu(D U^T, 1) U."""
    weight, x = random(ROWS, WIDTH, seed=6), inputs(2)
    matrix, shift = hessian(x), 2 / len(x) * (inputs(9) * 0.3).T @ x
    grid = Grid(3)
    h = matrix.double() + 0.01 * matrix.diag().mean() * torch.eye(WIDTH)
    upper = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    pull = 0.25 * torch.triu(shift.double() @ upper.T, 1) @ upper
    scale, zero = fitted(weight, grid, torch.float32)
    w, out = weight.double(), torch.zeros_like(weight)
    for j in range(WIDTH):
        q = codes(w[:, j], scale[:, 0], zero[:, 0], 3)
        out[:, j] = values(q, scale[:, 0], zero[:, 0])
        now, error = w[:, j].clone(), (w[:, j] - out[:, j]) / upper[j, j]
        w = w - error[:, None] * upper[j] + now[:, None] * pull[j]
    for block in (16, 128):
        settings = GptqSettings(order=Order.NONE, block=block)
        found = gptq(weight, matrix, grid, torch.float32, settings, HERE, shift).weight.dequantized()
        assert (found != out).float().mean() < 0.02
        assert (found == out).float().mean() > (found == rounded(weight, matrix, grid, order=Order.NONE)).float().mean()


def test_gptaq_brings_the_outputs_nearer_to_those_of_the_unquantized_model():
    x, x_float = inputs(2), inputs(2) + inputs(20) * 0.1
    weight, grid = random(ROWS, WIDTH, seed=6), Grid(4, 16)
    matrix, shift = hessian(x), 2 / len(x) * (x_float - x).T @ x

    def error(values: Tensor) -> float:
        return float((x @ values.T - x_float @ weight.T).square().sum())

    settings = GptqSettings()
    found = gptq(weight, matrix, grid, torch.float32, settings, HERE, shift).weight.dequantized()
    assert error(found) < error(rounded(weight, matrix, grid))
