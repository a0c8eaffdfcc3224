"""Collection of an importance matrix: the squares of the inputs of each matrix product, summed by column and expert.

Method and defaults: llama-imatrix of llama.cpp (tools/imatrix). The scheduler's evaluation callback announces every
node of the graph and passes the requested ones after they are computed. The text is divided into independent chunks.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError, MissingRuntime
from converters.llamacpp.bindings import TYPES, InitParams, ggml, lib
from converters.llamacpp.load import ALL_IN_RAM, LoadOptions
from converters.llamacpp.model import ContextOptions, Model, Tokens

MIN_TOKENS = 16  # llama-imatrix skips products of fewer rows, because they are not part of a prompt
_OBJECT_BYTES = 32  # sizeof(ggml_object), which ggml_tensor_overhead includes
_F32, _I32 = TYPES["F32"].id, TYPES["I32"].id


@dataclass(frozen=True)
class CollectedStatistics:
    """Result of `collect`: per weight the sums of squares and the rows counted, both float32.

    `sums` are [matrices, columns], `counts` [matrices]. A dense weight is one matrix; in a stack of experts each expert
    is one. `chunks` chunks of `chunk_size` tokens were read.
    """

    sums: Mapping[str, NDArray[np.float32]]
    counts: Mapping[str, NDArray[np.float32]]
    chunks: int
    chunk_size: int


def collect(
    path: Path,
    text: str | Tokens,
    *,
    n_ctx: int = 512,
    max_chunks: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    n_batch: int = 2048,
    n_threads: int | None = None,
    load: LoadOptions = ALL_IN_RAM,
    type_kv: str = "f16",
    flash_attn: str = "auto",
) -> CollectedStatistics:
    """Let the model at `path` read `text` (or token ids, int32 [n]) in chunks of `n_ctx` tokens.

    Tokens after the last whole chunk are dropped. As many chunks as fit into `n_batch` tokens are decoded at once. The
    logits of all n_batch tokens are held, because with fewer outputs llama.cpp would skip rows of the last layer.
    `progress(done, chunks)` is called between batches. `output.weight` and layers that do not run (MTP) get no entry.

    Raises InputError for a text of fewer than two chunks, a context that the model does not support, or activations
    that are not finite; DecodeError if llama.cpp cannot decode.
    """
    with Model(path, load) as model:
        chunks = _cut(model, text, n_ctx, max_chunks)
        together = max(1, n_batch // n_ctx)
        n_batch = min(n_batch, together * n_ctx)
        collector = _Collector(path)
        options = _Observed(
            n_ctx=together * n_ctx,
            n_batch=n_batch,
            n_seq_max=together,
            type_k=type_kv,
            type_v=type_kv,
            flash_attn=flash_attn,
            n_threads=n_threads,
            callback=collector.callback,
        )
        with model.context(options) as context:
            for start in range(0, len(chunks), together):
                group = chunks[start : start + together]
                context.clear()
                for tokens, positions, sequences in _batches(group, n_batch):
                    try:
                        context.decode(tokens, positions, sequences, np.ones(len(tokens), np.bool_))
                    finally:
                        collector.reraise()
                if progress is not None:
                    progress(start + len(group), len(chunks))
    if not collector.sums:
        raise InputError(f"{path}: no matrix product was observed; choose a context of more than {n_ctx} tokens")
    return CollectedStatistics(
        MappingProxyType({name: sums.astype(np.float32) for name, sums in collector.sums.items()}),
        MappingProxyType({name: counts.astype(np.float32) for name, counts in collector.counts.items()}),
        len(chunks),
        n_ctx,
    )


def require_two_chunks(n_tokens: int, n_ctx: int) -> None:
    """Raise InputError if the text has fewer tokens than two chunks."""
    if n_tokens < 2 * n_ctx:
        raise InputError(
            f"the calibration text has {n_tokens} tokens; chunks of {n_ctx} need at least {2 * n_ctx}:"
            " give a longer text or a smaller context"
        )


def _cut(model: Model, text: str | Tokens, n_ctx: int, max_chunks: int | None) -> Tokens:
    """The chunks, int32 [chunks, n_ctx], each beginning with BOS if the model adds one."""
    if not MIN_TOKENS <= n_ctx <= model.n_ctx_train:
        raise InputError(f"{model.path}: a chunk must have {MIN_TOKENS} to {model.n_ctx_train} tokens, not {n_ctx}")
    if max_chunks is not None and max_chunks < 1:
        raise InputError(f"an importance matrix needs at least 1 chunk of text, not {max_chunks}")
    tokens = model.tokenize(text, add_special=True) if isinstance(text, str) else np.asarray(text, np.int32)
    require_two_chunks(tokens.size, n_ctx)
    if not 0 <= tokens.min() <= tokens.max() < model.n_vocab:
        raise InputError(
            f"{model.path}: the calibration text has a token outside the model's vocabulary of {model.n_vocab}"
        )
    count = min(len(tokens) // n_ctx, max_chunks or len(tokens))
    chunks = tokens[: count * n_ctx].reshape(count, n_ctx).copy()
    if model.add_bos:
        chunks[:, 0] = model.bos_id
    return chunks


def _batches(chunks: Tokens, n_batch: int) -> Iterator[tuple[Tokens, Tokens, Tokens]]:
    """(tokens, positions, sequences) to decode in turn: several whole chunks at once, or one chunk in pieces."""
    count, n_ctx = chunks.shape
    step = min(n_batch, n_ctx)
    for start in range(0, n_ctx, step):
        piece = chunks[:, start : start + step]
        positions = np.tile(np.arange(start, start + piece.shape[1], dtype=np.int32), count)
        yield piece.reshape(-1), positions, np.repeat(np.arange(count, dtype=np.int32), piece.shape[1])


@dataclass(frozen=True)
class _Observed(ContextOptions):
    """A context that passes its nodes to `callback`, which must live as long as the context."""

    callback: Any = field(default=None, repr=False)

    def params(self) -> lib.llama_context_params:
        params = super().params()
        params.cb_eval = self.callback
        return params


class _Tensor(ctypes.Structure):
    """ggml_tensor. `ne` (elements) and `nb` (bytes between two elements) start with the columns."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


@functools.cache
def _operations() -> tuple[int, int]:
    """ggml's numbers of MUL_MAT and MUL_MAT_ID.

    They are read from nodes made for this purpose, with known shapes, names and sources. Raises MissingRuntime if
    `_Tensor` does not find these values in them, because it would then also misread the nodes of a model.
    """
    if ggml.ggml_tensor_overhead() != ctypes.sizeof(_Tensor) + _OBJECT_BYTES:
        raise MissingRuntime(_OTHER_LAYOUT)
    context = ggml.ggml_init(InitParams(16 * ggml.ggml_tensor_overhead(), None, True))
    try:
        experts = ggml.ggml_new_tensor_3d(context, _F32, 5, 7, 3)
        inputs = ggml.ggml_new_tensor_3d(context, _F32, 5, 2, 4)
        ids = ggml.ggml_new_tensor_3d(context, _I32, 2, 4, 1)
        weight = ggml.ggml_new_tensor_3d(context, _F32, 5, 6, 1)
        transposed = _Tensor.from_address(ggml.ggml_transpose(context, inputs))
        ggml.ggml_set_name(experts, b"blk.0.check.weight")
        dense = _Tensor.from_address(ggml.ggml_mul_mat(context, weight, inputs))
        indirect = _Tensor.from_address(ggml.ggml_mul_mat_id(context, experts, inputs, ids))
        known = (
            _Tensor.from_address(experts).name == b"blk.0.check.weight"
            and (transposed.type, _Tensor.from_address(ids).type) == (_F32, _I32)
            and (list(transposed.ne), list(transposed.nb)) == ([2, 5, 4, 1], [20, 4, 40, 160])
            and (transposed.view_src, transposed.view_offs, transposed.data) == (inputs, 0, None)
            and list(dense.src) == [weight, inputs, *[None] * 8]
            and list(indirect.src) == [experts, inputs, ids, *[None] * 7]
            and (_operation(dense), _operation(indirect)) == (b"MUL_MAT", b"MUL_MAT_ID")
        )
        if not known:
            raise MissingRuntime(_OTHER_LAYOUT)
        return dense.op, indirect.op
    finally:
        ggml.ggml_free(context)


_OTHER_LAYOUT = "ggml_tensor does not have the declared layout; install the pinned version of llama-cpp-python"


def _operation(tensor: _Tensor) -> bytes | None:
    """The name of a node's operation. ggml does not check the number before it indexes an array with it."""
    return ggml.ggml_op_name(tensor.op) if 0 <= tensor.op < 64 else None


class _Collector:
    """Sums the observed inputs in float64. `callback` is the C function for the scheduler.

    An exception must not pass through C. Therefore the first one is kept, observation stops, and `reraise` raises it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}
        self._mul_mat, self._mul_mat_id = _operations()
        self._error: BaseException | None = None
        self.callback = lib.ggml_backend_sched_eval_callback(self._observe)

    def reraise(self) -> None:
        if self._error is not None:
            raise self._error

    def _observe(self, address: int, ask: bool, _user_data: Any) -> bool:
        """With `ask`, whether the node is needed; otherwise add its inputs. False then stops the computation."""
        if self._error is not None:
            return False
        try:
            node = _Tensor.from_address(address)
            if ask:
                return self._is_needed(node)
            with np.errstate(over="ignore", invalid="ignore"):  # `_add` rejects overflows
                if node.op == self._mul_mat_id:
                    self._add_experts(node)
                else:
                    self._add_dense(node)
        except BaseException as error:  # including Ctrl-C, which would be lost in C
            self._error = error
            return False
        return True

    def _is_needed(self, node: _Tensor) -> bool:
        if node.op == self._mul_mat_id:
            return True
        if node.op != self._mul_mat:
            return False
        inputs = _Tensor.from_address(node.src[1])
        return (
            inputs.type == _F32
            and inputs.ne[1] >= MIN_TOKENS
            and _weight_name(_Tensor.from_address(node.src[0])).startswith("blk.")
        )

    def _add_dense(self, node: _Tensor) -> None:
        weight = _Tensor.from_address(node.src[0])
        squares = np.square(_values(node.src[1], np.float32))  # [ne3, ne2, rows, columns]
        n3, n2 = weight.ne[3], weight.ne[2]
        matrices, columns = n3 * n2, squares.shape[3]
        if matrices == 1:
            added = squares.reshape(-1, columns).sum(axis=0)[None]
        else:  # a weight of several matrices is applied to slices in turn
            added = np.zeros((matrices, columns), np.float32)
            for i3, i2 in np.ndindex(squares.shape[:2]):
                added[i3 % n3 * n2 + i2 % n2] += squares[i3, i2].sum(axis=0)
        rows = squares.size // columns // matrices
        self._add(weight, added, np.full(matrices, rows, np.int64))

    def _add_experts(self, node: _Tensor) -> None:
        """Add a stack of experts' inputs [tokens, 1 or chosen, columns], by the experts' ids [tokens, chosen]."""
        weight = _Tensor.from_address(node.src[0])
        experts = weight.ne[2]
        if _Tensor.from_address(node.src[1]).type != _F32:
            raise InputError(
                f"{self.path}: the inputs of {_weight_name(weight)} are not float32, which is not supported"
            )
        squares = np.square(_values(node.src[1], np.float32))[0]
        ids = _values(node.src[2], np.int32)[0, 0]
        tokens, each, columns = squares.shape
        if len(ids) != tokens or not 0 <= ids.min() <= ids.max() < experts:
            raise InputError(
                f"{self.path}: the router chose invalid experts for {_weight_name(weight)}, which has {experts}"
            )
        rows = np.arange(tokens)[:, None] * each + np.arange(ids.shape[1]) % each
        chosen = np.zeros((experts, tokens * each), np.float32)
        np.add.at(chosen, (ids, rows), 1)
        self._add(weight, chosen @ squares.reshape(-1, columns), np.bincount(ids.ravel(), minlength=experts))

    def _add(self, weight: _Tensor, added: NDArray[np.float32], counts: NDArray[np.int64]) -> None:
        name = _weight_name(weight)
        if not np.isfinite(added).all():
            raise InputError(f"{self.path}: an input of {name} is NaN or infinite; check whether the model is damaged")
        if name not in self.sums:
            self.sums[name], self.counts[name] = np.zeros(added.shape), np.zeros(len(counts), np.int64)
        self.sums[name] += added
        self.counts[name] += counts


def _weight_name(weight: _Tensor) -> str:
    """The weight's name in the file. The scheduler names its copy on a device "CUDA0#blk.0.attn_k.weight#0"."""
    name: str = weight.name.decode(errors="replace")
    return name.split("#")[1] if "#" in name else name


def _values(address: int, dtype: type[np.generic]) -> NDArray[Any]:
    """A copy of a tensor's values from any device, [ne3, ne2, ne1, ne0], with the tensor's strides."""
    tensor = _Tensor.from_address(address)
    data = np.empty(ggml.ggml_nbytes(address), np.uint8)
    ggml.ggml_backend_tensor_get(address, data.ctypes.data, 0, data.nbytes)
    return np.ndarray(tuple(reversed(tensor.ne)), dtype, data, strides=tuple(reversed(tensor.nb)))
