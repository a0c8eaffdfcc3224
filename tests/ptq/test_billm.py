"""BiLLM against its formulas written out in NumPy for every candidate, and its stored form against safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from converters.errors import InputError
from ptq.billm import BillmSettings, billm, large_weights, salient_columns
from ptq.binary import BinaryWeight, layout
from ptq.gptq import layer_error
from ptq.recipe import Masks

Array = np.ndarray
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MASKS = tuple(Masks)


def weights(rows: int = 12, columns: int = 96, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def hessian(columns: int = 96, seed: int = 1) -> Tensor:
    """H of correlated inputs, some of which are much larger than others."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    x = x * torch.exp(torch.randn(columns, generator=generator))
    return x.T @ x * (2 / len(x))


def terms(x: Array, mask: Array, order: int) -> Array:
    """The sum of `order` terms mean + sign * scale, each fitted to the weights in `mask` of each row."""
    out = np.zeros_like(x)
    for row in range(len(x)):
        inside = mask[row]
        if not inside.any():
            continue
        for _ in range(order):
            rest = x[row, inside] - out[row, inside]
            mean = rest.mean()
            out[row, inside] += mean + np.sign(rest - mean) * np.abs(rest - mean).mean()
    return out


def count_errors(target: Array, saliency: Array) -> list[float]:
    """The error for 1, 2, ... salient columns."""
    order = np.argsort(-saliency.sum(0), kind="stable")
    errors = []
    for count in range(1, min(50, target.shape[1])):
        mask = np.zeros(target.shape, dtype=bool)
        mask[:, order[:count]] = True
        errors.append(float(((target - terms(target, mask, 2) - terms(target, ~mask, 2)) ** 2).sum()))
    return errors


def split_masks(target: Array, salient: Array) -> list[Array]:
    """The group of large weights for each of the 81 candidates."""
    sizes = np.abs(target) * ~salient
    return [(sizes >= np.quantile(sizes, share)) & ~salient for share in np.linspace(0.1, 0.9, 81)]


def split_error(target: Array, salient: Array, large: Array) -> float:
    small = ~large & ~salient
    rounded = terms(target, large, 1) + terms(target, small, 1)
    return float(((target - rounded)[:, ~salient] ** 2).sum())


def by_the_formulas(weight: Tensor, h: Tensor, masks: Masks, block: int) -> Array:
    """The whole method in float64, with exact scales."""
    w, full = weight.double().numpy().copy(), h.double().numpy().copy()
    full += 0.01 * np.diag(full).mean() * np.eye(len(full))
    upper = np.linalg.cholesky(np.linalg.inv(full)).T
    for start in range(0, w.shape[1], block):
        stop = min(start + block, w.shape[1])
        part = w[:, start:stop]
        saliency = part**2 / np.diag(upper)[start:stop] ** 2
        target = saliency if masks is Masks.SALIENCY else part
        best = int(np.argmin(count_errors(target, saliency))) + 1
        salient = np.zeros(stop - start, dtype=bool)
        salient[np.argsort(-saliency.sum(0), kind="stable")[:best]] = True
        large = min(split_masks(target, salient), key=lambda mask: split_error(target, salient, mask))
        columns = np.broadcast_to(salient, part.shape)
        rounded = terms(part, columns, 2) + terms(part, large, 1) + terms(part, ~large & ~columns, 1)
        w[:, stop:] -= (part - rounded) / np.diag(upper)[start:stop] @ upper[start:stop, stop:]
        w[:, start:stop] = rounded
    return w


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("block", [96, 40])
def test_the_whole_method_is_that_of_the_formulas(block: int, masks: Masks):
    """Compared in double precision: the same bits, so weights differ by rounding only."""
    weight, h = weights(4, 96), hessian()
    found = billm(weight, h, torch.float32, BillmSettings(block=block, masks=masks), "layer").weight
    expected = by_the_formulas(weight, h, masks, block)
    assert np.abs(found.dequantized().numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("seed", range(3))
def test_the_number_of_salient_columns_is_the_best_of_all(seed: int, masks: Masks):
    weight = weights(6, 64, seed)
    saliency = weight**2 * torch.exp(2 * torch.randn(64, generator=torch.Generator().manual_seed(seed)))
    target = saliency if masks is Masks.SALIENCY else weight
    chosen = salient_columns(target, saliency)
    errors = count_errors(target.double().numpy(), saliency.double().numpy())
    assert errors[int(chosen.sum()) - 1] <= min(errors) * (1 + 1e-5)
    assert saliency.sum(0)[chosen].min() >= saliency.sum(0)[~chosen].max()  # the first ones by saliency
    assert len(errors) == 49


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("seed", range(3))
def test_the_split_is_the_best_of_81(seed: int, masks: Masks):
    weight = weights(5, 48, seed)
    target = weight**2 if masks is Masks.SALIENCY else weight
    salient = torch.arange(48) % 7 == seed
    plain, mask = target.double().numpy(), salient.numpy()
    found = large_weights(target, salient)
    errors = [split_error(plain, mask, one) for one in split_masks(plain, mask)]
    assert split_error(plain, mask, found.numpy()) <= min(errors) * (1 + 1e-5)
    assert min(errors) < max(errors)
    assert not found[:, salient].any()


@pytest.mark.parametrize("scale", [1e-18, 1e-9, 1.0, 1e9, 1e18])
def test_the_choices_do_not_depend_on_the_scale_of_the_target(scale: float):
    saliency = weights(6, 64) ** 2
    salient = salient_columns(saliency, saliency)
    assert torch.equal(salient_columns(saliency * scale, saliency), salient)
    assert torch.equal(large_weights(saliency * scale, salient), large_weights(saliency, salient))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [96, 100, 7])
def test_what_is_stored_is_read_back_to_the_bit(columns: int, dtype: torch.dtype, tmp_path: Path):
    """Through a file; the bytes of its tensors are the bits that the weight states, and its layout too."""
    weight = billm(weights(9, columns), hessian(columns), dtype, BillmSettings(block=40), "layer").weight
    save_file(weight.stored_tensors(), tmp_path / "one.safetensors")
    stored = load_file(tmp_path / "one.safetensors")
    again = BinaryWeight.from_tensors(stored, columns, 40)
    for name in ("signs", "bits", "salient", "mean", "scale"):
        assert torch.equal(getattr(again, name), getattr(weight, name)), name
    assert torch.equal(again.dequantized(), weight.dequantized())
    assert again.dequantized().dtype == dtype
    assert sum(tensor.nbytes for tensor in stored.values()) * 8 == weight.stored_bits
    expected = layout(9, columns, 40, dtype)
    assert {name: (tuple(held.shape), held.dtype) for name, held in stored.items()} == {
        name: (held.shape, held.dtype) for name, held in expected.items()
    }
    header = int.from_bytes((tmp_path / "one.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "one.safetensors").stat().st_size == 8 + header + weight.stored_bits // 8


def test_a_weight_takes_3_bits_not_1():
    """Two bits, and 8 numbers of 16 bits per row and 128 columns."""
    bits = 8 * sum(held.nbytes for held in layout(3072, 1024, 128, torch.bfloat16).values())
    assert 3.0 <= bits / (3072 * 1024) < 3.001
    weight = billm(weights(16, 128), hessian(128), torch.bfloat16, BillmSettings(), "layer").weight
    share = float(weight.salient.sum()) / 128
    assert weight.sign_bits == pytest.approx(1 + share)
    assert 1 / 128 <= share <= 49 / 128


@pytest.mark.parametrize("masks", MASKS)
def test_scales_are_fitted_to_what_is_stored(masks: Masks):
    """In bfloat16 no weight has a nearer value with other signs in its own group."""
    weight = weights(8, 64)
    settings = BillmSettings(masks=masks)
    found = billm(weight, torch.eye(64), torch.bfloat16, settings, "layer").weight  # one block: no error goes on
    apart = (weight - found.dequantized().float()).abs()
    usual = ~found.salient
    flipped = BinaryWeight(~found.signs, found.bits, found.salient, found.mean, found.scale, found.block)
    assert (apart <= (weight - flipped.dequantized().float()).abs() + 1e-4)[:, usual].all()
    other = torch.where(found.salient, ~found.bits, found.bits)
    flipped = BinaryWeight(found.signs, other, found.salient, found.mean, found.scale, found.block)
    assert (apart <= (weight - flipped.dequantized().float()).abs() + 1e-4)[:, found.salient].all()


@pytest.mark.parametrize("masks", MASKS)
def test_later_blocks_make_up_for_the_errors_of_earlier_ones(masks: Masks):
    """The outputs' error is smaller with the inputs' own H than with that of shuffled inputs or of none."""
    weight, h = weights(12, 96), hessian()
    shuffled = torch.randperm(96, generator=torch.Generator().manual_seed(3))
    own, other, none = (
        layer_error(
            weight,
            billm(weight, used, torch.bfloat16, BillmSettings(block=24, masks=masks), "layer").weight.dequantized(),
            h,
        )
        for used in (h, h[shuffled][:, shuffled], torch.eye(96) * h.diag().mean())
    )
    assert own < other
    assert own < none


def test_masks_of_the_weights_leave_smaller_errors_than_masks_of_the_saliency():
    weight, h = weights(32, 128), hessian(128)
    by_saliency, by_weights = (
        layer_error(
            weight,
            billm(weight, h, torch.bfloat16, BillmSettings(masks=masks), "layer").weight.dequantized(),
            torch.eye(128),
        )
        for masks in (Masks.SALIENCY, Masks.WEIGHTS)
    )
    assert by_weights < by_saliency


def test_a_column_whose_input_is_always_0_keeps_its_weights():
    weight, h = weights(), hessian()
    h[5] = 0
    h[:, 5] = 0
    before = weight.clone(), h.clone()
    found = billm(weight, h, torch.bfloat16, BillmSettings(block=32), "layer").weight.dequantized()
    assert found[:, 5].abs().min() > 0
    assert torch.equal(weight, before[0])
    assert torch.equal(h, before[1])


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_equal_weights_and_a_single_column_are_stored_exactly(value: float):
    for weight in (torch.full((4, 96), value), torch.full((4, 1), value)):
        columns = weight.shape[1]
        found = billm(weight, torch.eye(columns), torch.bfloat16, BillmSettings(block=32), "layer").weight
        assert torch.equal(found.dequantized().float(), weight)


def test_inputs_that_depend_on_each_other_are_an_error_that_names_the_layer():
    with pytest.raises(InputError, match=r"^model\.layers\.3\.mlp\.up_proj: .*damp"):
        billm(weights(), -hessian(), torch.bfloat16, BillmSettings(), "model.layers.3.mlp.up_proj")
