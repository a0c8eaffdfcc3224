"""The input of one call of llama_decode: tokens or embeddings, their positions, sequences, and which produce logits.

llama.cpp reads the arrays in place (`llama_batch` in `include/llama.h`), so a prepared batch costs nothing to decode.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.llamacpp.bindings import lib

_TOKENS = ctypes.POINTER(ctypes.c_int32)
_SEQUENCES = ctypes.POINTER(_TOKENS)
_FLOATS = ctypes.POINTER(ctypes.c_float)
_SECTIONS = 4  # positions of an embedding in M-RoPE; Qwen's models do not use the last one
_OUTPUTS = ctypes.POINTER(ctypes.c_int8)


class DecodeError(RuntimeError):
    """llama.cpp rejected a batch or failed to decode it."""


@dataclass(frozen=True)
class Batch:
    """`n_tokens` tokens; `n_outputs` of them produce logits. `native` points into arrays that `kept` keeps alive."""

    n_tokens: int
    n_outputs: int
    native: lib.llama_batch
    kept: tuple[NDArray[np.generic], ...]


def make_batch(
    tokens: NDArray[np.integer],
    positions: NDArray[np.integer],
    sequences: NDArray[np.integer],
    outputs: NDArray[np.bool_],
    counts: NDArray[np.integer] | None = None,
) -> Batch:
    """Make a batch of n tokens.

    `tokens`, `positions` and `outputs` (whether a token produces logits) have shape (n,). `sequences` has each token's
    sequence, shape (n,). With `counts`, shape (n,), it is the flat list of the sequences of all tokens, counts[i] of
    them for token i. A token with several sequences is computed once and belongs to all of them, which needs a unified
    cache. Raises DecodeError if the lengths differ.
    """
    token = np.ascontiguousarray(tokens, dtype=np.int32)
    position = np.ascontiguousarray(positions, dtype=np.int32)
    fields: dict[str, object] = {"token": token.ctypes.data_as(_TOKENS), "embd": None}
    return _batch(len(position), fields, position, sequences, outputs, counts, (token,), len(token))


def make_embedding_batch(
    embeddings: NDArray[np.floating],
    positions: NDArray[np.integer],
    sequences: NDArray[np.integer],
    outputs: NDArray[np.bool_],
    counts: NDArray[np.integer] | None = None,
) -> Batch:
    """Make a batch of n embeddings (n, width) for a model with M-RoPE, with `positions` (3, n): time, row, column.

    The other arguments are those of `make_batch`. The width is that of the model's input, DeepStack included.
    """
    embedding = np.ascontiguousarray(embeddings, dtype=np.float32)
    section = np.zeros((_SECTIONS, positions.shape[1]), np.int32)
    section[: len(positions)] = positions
    fields: dict[str, object] = {"token": None, "embd": embedding.ctypes.data_as(_FLOATS)}
    return _batch(positions.shape[1], fields, section, sequences, outputs, counts, (embedding,), len(embedding))


def _batch(
    n: int,
    fields: dict[str, object],
    position: NDArray[np.int32],
    sequences: NDArray[np.integer],
    outputs: NDArray[np.bool_],
    counts: NDArray[np.integer] | None,
    inputs: tuple[NDArray[np.generic], ...],
    n_inputs: int,
) -> Batch:
    pool = np.ascontiguousarray(sequences, dtype=np.int32)
    count = np.ones(n, np.int32) if counts is None else np.ascontiguousarray(counts, dtype=np.int32)
    output = np.ascontiguousarray(outputs, dtype=np.int8)
    if not n_inputs == len(count) == len(output) == n or int(count.sum()) != len(pool):
        raise DecodeError("tokens, positions, sequences and outputs do not have the same length")
    first = np.cumsum(count, dtype=np.uint64) - count.astype(np.uint64)
    pointers = np.uint64(pool.ctypes.data) + np.uint64(4) * first
    native = lib.llama_batch(
        n_tokens=n,
        pos=position.ctypes.data_as(_TOKENS),
        n_seq_id=count.ctypes.data_as(_TOKENS),
        seq_id=pointers.ctypes.data_as(_SEQUENCES),
        logits=output.ctypes.data_as(_OUTPUTS),
        **fields,
    )
    return Batch(n, int(np.count_nonzero(output)), native, (*inputs, position, pool, count, output, pointers))
