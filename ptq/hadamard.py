"""Hadamard matrices of many sizes, made orthonormal, and the fast product with them.

A matrix of size m * 2^k is the Kronecker product of one of size m by Paley's constructions and Sylvester's of size 2^k.
Paley's (1933) need a prime power q: size q + 1 if q = 3 mod 4, and 2 (q + 1) if q = 1 mod 4.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from converters.errors import InputError


def require_hadamard(size: int, where: str) -> None:
    """Raise InputError that begins with `where` if `hadamard` cannot transform vectors of this size."""
    if _paley_size(size) is None:
        raise InputError(f"{where}: no Hadamard matrix of size {size} is known to bitsweep; use a recipe without rot")


def hadamard(x: Tensor) -> Tensor:
    """x [..., n] times the orthonormal Hadamard matrix of size n, in the dtype of x; computed in at least float32.

    If the input x of a linear layer and the rows of its weight are both multiplied, the output stays the same. Raises
    InputError for a size without a construction.
    """
    size = x.shape[-1]
    require_hadamard(size, "rotation")
    outer = _paley_size(size) or 1
    out = x if x.dtype is torch.float64 else x.float()
    out = _butterfly(out.reshape(-1, outer, size // outer))
    if outer > 1:
        out = torch.matmul(_paley(outer, out.device, out.dtype).T, out)
    return (out * size**-0.5).reshape(x.shape).to(x.dtype)


def hadamard_matrix(size: int) -> Tensor:
    """The orthonormal matrix, float64 [size, size]. Raises InputError for a size without a construction."""
    return hadamard(torch.eye(size, dtype=torch.float64))


def _butterfly(x: Tensor) -> Tensor:
    """x [..., 2^k] times Sylvester's matrix of +1 and -1."""
    width = x.shape[-1]
    step = 1
    while step < width:
        low, high = x.unflatten(-1, (-1, 2, step)).unbind(-2)
        x = torch.stack([low + high, low - high], -2).flatten(-3)
        step *= 2
    return x


@cache
def _paley_size(size: int) -> int | None:
    """The smallest m with a construction for which `size` is m * 2^k: 1 for powers of two. None if there is none."""
    if size < 1:
        return None
    odd = size // (size & -size)
    if odd == 1:
        return 1
    for m in (odd * 2**k for k in range(2, size.bit_length())):
        if m > size:
            return None
        if _prime_power(m - 1, 3) or _prime_power(m // 2 - 1, 1):
            return m
    return None


def _prime_power(q: int, remainder: int) -> tuple[int, int] | None:
    """(p, k) with q = p^k, for a prime p and q = `remainder` mod 4."""
    if q < 3 or q % 4 != remainder:
        return None
    p = next((d for d in range(3, int(q**0.5) + 1, 2) if q % d == 0), q)
    k, rest = 0, q
    while rest % p == 0:
        k, rest = k + 1, rest // p
    return (p, k) if rest == 1 else None


@cache
def _paley(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(_signs(size)).to(device, dtype)


def _signs(size: int) -> np.ndarray:
    """A Hadamard matrix [size, size] of +1 and -1, int8, by Paley's constructions."""
    first = _prime_power(size - 1, 3)
    if first is not None:  # I + S with S^T = -S
        conference = _bordered(first, -1)
        return conference + np.eye(size, dtype=np.int8)
    second = _prime_power(size // 2 - 1, 1)
    assert second is not None
    conference = _bordered(second, 1)
    signs, rest = np.array([[1, 1], [1, -1]], dtype=np.int8), np.array([[1, -1], [-1, -1]], dtype=np.int8)
    return np.kron(conference, signs) + np.kron(np.eye(size // 2, dtype=np.int8), rest)


def _bordered(power: tuple[int, int], left: int) -> np.ndarray:
    """[[0, 1], [left, Q]], int8, with Q = 1 if the difference of two elements of the field is a square, else -1."""
    p, k = power
    elements = np.array(list(product(range(p), repeat=k)))
    places = p ** np.arange(k - 1, -1, -1)
    character = np.zeros(p**k, dtype=np.int8)
    for exponent, element in enumerate(_powers(p, k)):  # squares are the even powers of a generator
        character[np.dot(element, places)] = -1 if exponent % 2 else 1
    differences = (elements[:, None] - elements[None]) % p
    out = np.ones((p**k + 1, p**k + 1), dtype=np.int8)
    out[0, 0], out[1:, 0], out[1:, 1:] = 0, left, character[differences @ places]
    return out


def _powers(p: int, k: int) -> list[tuple[int, ...]]:
    """All elements but 0 of the field with p^k elements, as the powers of one that generates it.

    Elements are polynomials, tuples of k coefficients, modulo a polynomial for which x generates the field. It is found
    by trying.
    """
    one = (*[0] * (k - 1), 1)
    for rest in product(range(p), repeat=k):  # x^k is equal to this polynomial
        found, element = [one], _times_x(one, rest, p)
        while element != one and any(element) and len(found) < p**k:
            found.append(element)
            element = _times_x(element, rest, p)
        if len(found) == p**k - 1 and element == one:
            return found
    raise AssertionError(f"no field with {p}^{k} elements")


def _times_x(element: tuple[int, ...], rest: tuple[int, ...], p: int) -> tuple[int, ...]:
    carried = element[0]
    return tuple((a + carried * b) % p for a, b in zip((*element[1:], 0), rest, strict=True))
