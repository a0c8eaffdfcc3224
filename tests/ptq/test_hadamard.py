"""Hadamard matrices: their definition, and the fast product against the dense one."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from converters.errors import InputError
from ptq.hadamard import hadamard, hadamard_matrix, require_hadamard

QWEN_SIZES = (1024, 2048, 2560, 3072, 4096, 5120, 6144, 9728, 12288, 17408, 25600, 512, 768, 1536, 8192, 640)
"""Hidden sizes, and inputs of o_proj and down_proj, of Qwen3, Qwen3-Next, Qwen3.5 and Qwen3.6."""

PALEY = (12, 20, 24, 28, 36, 44, 52, 60, 68, 76, 84, 100, 108, 124, 140, 148, 344)


@pytest.mark.parametrize("size", [1, 2, 4, 64, *PALEY, 80, 96, 192, 304])
def test_a_matrix_is_a_hadamard_matrix(size: int):
    """All entries have the same magnitude, and H H^T = I."""
    matrix = hadamard_matrix(size)
    assert torch.allclose(matrix.abs(), torch.full_like(matrix, size**-0.5))
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("size", QWEN_SIZES)
def test_the_sizes_of_qwen_can_be_rotated(size: int):
    """Lengths stay, and a single large channel is spread evenly."""
    require_hadamard(size, "layer")
    x = torch.zeros(2, size)
    x[0, size // 3] = 7
    x[1] = torch.randn(size, generator=torch.Generator().manual_seed(0))
    out = hadamard(x)
    assert torch.allclose(out.norm(dim=1), x.norm(dim=1), rtol=1e-5)
    assert torch.allclose(out[0].abs(), torch.full((size,), 7 * size**-0.5), rtol=1e-5)


def paley(q: int) -> Tensor:
    """I + S of size q + 1 for a prime q = 3 mod 4, from the squares modulo q."""
    squares = {x * x % q for x in range(1, q)}
    matrix = torch.eye(q + 1, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0] = 1, -1
    for i in range(q):
        for j in range(q):
            if i != j:
                matrix[i + 1, j + 1] = 1 if (i - j) % q in squares else -1
    return matrix


@pytest.mark.parametrize(("q", "doublings"), [(None, 0), (None, 3), (None, 6), (11, 0), (11, 4), (19, 1), (67, 2)])
def test_the_fast_product_is_that_with_the_dense_matrix(q: int | None, doublings: int):
    """The Kronecker product of Paley's matrix and powers of [[1, 1], [1, -1]]."""
    dense = torch.ones(1, 1, dtype=torch.float64) if q is None else paley(q)
    for _ in range(doublings):
        dense = torch.kron(dense, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    dense = dense / len(dense) ** 0.5
    x = torch.randn(3, 5, len(dense), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(hadamard(x), (x.double() @ dense).float(), atol=1e-5)
    assert torch.allclose(hadamard_matrix(len(dense)), dense, atol=1e-12)


def test_a_linear_layer_of_rotated_inputs_and_rows_gives_the_same_output():
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(4, 96, generator=generator), torch.randn(7, 96, generator=generator)
    assert torch.allclose(hadamard(x) @ hadamard(weight).T, x @ weight.T, atol=1e-4)


def test_the_dtype_stays_and_bfloat16_is_rounded_only_once():
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    assert torch.equal(hadamard(x), hadamard(x.float()).to(torch.bfloat16))


@pytest.mark.parametrize("size", [3, 6, 10, 92, 172, 0])
def test_a_size_without_a_construction_is_an_error_that_names_it(size: int):
    with pytest.raises(
        InputError, match=re.escape(f"model.layers.0.mlp.down_proj: no Hadamard matrix of size {size} ")
    ):
        require_hadamard(size, "model.layers.0.mlp.down_proj")
