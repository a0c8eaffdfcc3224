"""A GGUF file loaded in llama.cpp, and contexts that decode batches of tokens into logits.

This uses the low-level API instead of `llama_cpp.Llama`: batches are filled through numpy views, and logits are read in
llama.cpp's buffer without a copy. Documentation of the API: `include/llama.h` of llama.cpp.
"""

from __future__ import annotations

import ctypes
import os
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from converters.llamacpp.batch import Batch, DecodeError, make_batch
from converters.llamacpp.bindings import lib, start_backend, type_named
from converters.llamacpp.load import ALL_IN_RAM, LoadOptions
from converters.llamacpp.load_failure import load_failure
from converters.llamacpp.log import Captured, capture
from converters.llamacpp.pretokenizers import NORMALIZER_KEY, normalizer

Tokens = NDArray[np.int32]

FLASH_ATTENTION = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_BUFFER_LINE = re.compile(r"(model|KV|RS|compute|output) buffer size\s*=\s*([\d.]+) MiB")
_STATE_LINE = re.compile(r"^llama_memory_recurrent: size = +([\d.]+) MiB", re.M)
_TOKEN_POINTER = ctypes.POINTER(ctypes.c_int32)


def _allocated(log: Captured) -> int:
    """Bytes of the buffers that llama.cpp reports in its log, which prints them to 0.01 MiB."""
    return sum(int(float(size) * 2**20) for _, size in _BUFFER_LINE.findall(log.text))


def available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ContextOptions:
    """Options of a context, with the names and meanings of llama.cpp's `llama_context_params`.

    `n_ctx` counts the cells of all sequences. With `kv_unified` any sequence may use all cells; otherwise each has
    n_ctx / n_seq_max cells. `n_rs_seq` is the number of additional copies of the recurrent states of a sequence. With
    `mtp` the context runs the layers for multi-token prediction. `n_outputs_max` is the largest number of outputs of a
    batch, 0 for all its tokens. `type_k` and `type_v` are names of tensor types, `flash_attn` a key of FLASH_ATTENTION.
    `n_threads` is all available CPUs by default.
    """

    n_ctx: int
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    kv_unified: bool = False
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"
    n_threads: int | None = None
    n_rs_seq: int = 0
    n_outputs_max: int = 0
    mtp: bool = False

    def params(self) -> lib.llama_context_params:
        """These options as llama.cpp's struct. Raises InputError for an unknown type."""
        params = lib.llama_context_default_params()
        params.n_ctx = self.n_ctx
        params.n_batch = self.n_batch
        params.n_ubatch = min(self.n_ubatch, self.n_batch)
        params.n_seq_max = self.n_seq_max
        params.kv_unified = self.kv_unified
        params.n_rs_seq = self.n_rs_seq
        params.n_outputs_max = self.n_outputs_max
        params.ctx_type = lib.LLAMA_CONTEXT_TYPE_MTP if self.mtp else lib.LLAMA_CONTEXT_TYPE_DEFAULT
        params.type_k = type_named(self.type_k).id
        params.type_v = type_named(self.type_v).id
        params.flash_attn_type = FLASH_ATTENTION[self.flash_attn]
        # set both, because otherwise prompts run on llama.cpp's default of four threads
        params.n_threads = params.n_threads_batch = self.n_threads or available_cpus()
        return params


class Model:
    """A loaded GGUF file. Close it, or use it as a context manager; its contexts must be closed first.

    With `vocabulary`, only the vocabulary and the metadata are loaded; such a model cannot have contexts. Raises
    InputError with llama.cpp's message if the file is missing or cannot be loaded.
    """

    def __init__(self, path: str | Path, load: LoadOptions = ALL_IN_RAM, *, vocabulary: bool = False) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{self.path}: there is no such file; give the path of a .gguf model")
        start_backend()
        params = lib.llama_model_default_params()
        kept = load.apply(params)
        params.vocab_only = vocabulary
        with capture() as log:
            self._model = lib.llama_model_load_from_file(os.fsencode(self.path), params)
        del kept
        if not self._model:
            raise InputError(f"{self.path}: llama.cpp cannot load this file: {load_failure(log)}")
        self.allocated_bytes = _allocated(log)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self.n_params: int = lib.llama_model_n_params(self._model)
        self.size_bytes: int = lib.llama_model_size(self._model)
        self.is_recurrent: bool = lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        self.bos_id: int = lib.llama_vocab_bos(self._vocab)
        self.eos_id: int = lib.llama_vocab_eos(self._vocab)
        self.eot_id: int = lib.llama_vocab_eot(self._vocab)
        self.add_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        # If a file has only templates with names, the one called "default" is meant.
        template = lib.llama_model_chat_template(self._model, None) or lib.llama_model_chat_template(
            self._model, b"default"
        )
        self.chat_template: str | None = template.decode("utf-8") if template else None
        keys = (NORMALIZER_KEY, "tokenizer.ggml.pre")
        known = {key: value for key in keys if (value := self.metadata(key)) is not None}
        self._normalizes = normalizer(known) == "NFC"
        self._pieces: dict[bool, list[bytes | None]] = {s: [None] * self.n_vocab for s in (False, True)}

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._model:
            lib.llama_model_free(self._model)
            self._model = None

    def metadata(self, key: str) -> str | None:
        """The value of `key` in the GGUF metadata, as llama.cpp prints it, or None if the key is missing."""
        buffer = ctypes.create_string_buffer(4096)
        length = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace") if length >= 0 else None

    @cached_property
    def description(self) -> str:
        """llama.cpp's description: architecture, size class, quantization."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace")

    @cached_property
    def eog_ids(self) -> frozenset[int]:
        """All tokens that end a generation: eos, eot and similar tokens."""
        return frozenset(t for t in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, t))

    def cache_bytes_per_cell(self, type_k: str, type_v: str) -> int:
        """Bytes of K and V of one cell over all layers. It is an upper bound if some layers have no KV cache."""
        layers, heads = lib.llama_model_n_layer(self._model), lib.llama_model_n_head_kv(self._model)
        default = lib.llama_model_n_embd(self._model) // max(1, lib.llama_model_n_head(self._model))
        architecture = self.metadata("general.architecture")
        widths = (int(self.metadata(f"{architecture}.attention.{side}_length") or default) for side in ("key", "value"))
        rows = (type_named(t).row_bytes(heads * width) for t, width in zip((type_k, type_v), widths, strict=True))
        return layers * sum(rows)

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of one sequence's recurrent state, to 0.01 MiB, as llama.cpp reports it; 0 if the model has none."""
        if not self.is_recurrent:
            return 0
        with self.context(ContextOptions(n_ctx=1, n_batch=1)) as context:
            return context.recurrent_bytes

    def tokenize(self, text: str | bytes, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        """Token ids, int32 [n]. Bytes that are not UTF-8 become U+FFFD.

        `add_special` adds BOS and EOS if the model requires them; `parse_special` reads `<|...|>` as special tokens.
        llama.cpp does not normalize Unicode, so NFC is applied here if the file says that the tokenizer does it.
        Raises InputError if llama.cpp cannot tokenize the text.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        if self._normalizes:
            text = unicodedata.normalize("NFC", text)
        raw = text.encode("utf-8", errors="replace")
        room = len(raw) + 2  # a token has at least one byte; two more for BOS and EOS
        tokens = np.empty(room, dtype=np.int32)
        n = lib.llama_tokenize(
            self._vocab, raw, len(raw), tokens.ctypes.data_as(_TOKEN_POINTER), room, add_special, parse_special
        )
        if n < 0:
            raise InputError(f"{self.path}: llama.cpp could not tokenize a text of {len(raw)} bytes")
        return tokens[:n].copy()

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token. Special tokens give no bytes unless `special`."""
        cached = self._pieces[special][token]
        if cached is not None:
            return cached
        buffer = ctypes.create_string_buffer(64)
        n = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        self._pieces[special][token] = piece = buffer.raw[: max(n, 0)]
        return piece

    def detokenize(self, tokens: Tokens | list[int] | tuple[int, ...], *, special: bool = False) -> str:
        """The text of a sequence of byte-level tokens. Special tokens are left out unless `special`."""
        return b"".join(self.piece(int(t), special=special) for t in tokens).decode("utf-8", errors="replace")

    def context(self, options: ContextOptions) -> Context:
        return Context(self, options)


class Context:
    """The memory of one or several sequences, and the decoding of batches. Close it before its model.

    Raises InputError if llama.cpp cannot make it, for example with a quantized V cache but without flash attention.
    """

    def __init__(self, model: Model, options: ContextOptions) -> None:
        self.model = model
        self.options = options
        if options.n_seq_max > options.n_batch:  # llama.cpp would abort the process
            raise InputError(f"a context of {options.n_seq_max} sequences needs a batch of at least as many tokens")
        with capture() as log:
            self._context = lib.llama_init_from_model(model._model, options.params())
        if not self._context:
            raise InputError(
                f"{model.path}: llama.cpp cannot make a context of {options}: {log.errors or 'no reason given'}"
            )
        self.allocated_bytes = _allocated(log)
        self.recurrent_bytes = int(sum(map(float, _STATE_LINE.findall(log.text))) * 2**20)  # of all sequences
        self._memory = lib.llama_get_memory(self._context)
        self.n_batch: int = lib.llama_n_batch(self._context)
        self.n_ctx: int = lib.llama_n_ctx(self._context)
        self.n_ctx_seq: int = lib.llama_n_ctx_seq(self._context)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._context:
            lib.llama_free(self._context)
            self._context = None

    def decode(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
        counts: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float32]:
        """Make a batch with `make_batch` and decode it with `run`."""
        return self.run(make_batch(tokens, positions, sequences, outputs, counts))

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Decode one batch of n <= n_batch tokens.

        Returns the logits of the tokens marked for output, float32 (n_outputs, n_vocab), in batch order. The array is a
        view of llama.cpp's buffer, valid until the next decode. Raises DecodeError.
        """
        if not 0 < batch.n_tokens <= self.n_batch:  # llama.cpp would abort the process
            raise DecodeError(f"a batch has {batch.n_tokens} tokens, but this context accepts 1 to {self.n_batch}")
        with capture() as log:
            status = lib.llama_decode(self._context, batch.native)
        if status != 0:
            reason = "the KV cache has no room for its tokens" if status == 1 else log.errors or "no reason given"
            raise DecodeError(f"llama_decode returned {status}: {reason}")
        shape = (batch.n_outputs, self.model.n_vocab)
        if batch.n_outputs == 0:
            return np.empty(shape, np.float32)
        return np.ctypeslib.as_array(lib.llama_get_logits(self._context), shape)

    def synchronize(self) -> None:
        """Wait until all decoding is done. On a GPU, `run` returns earlier."""
        lib.llama_synchronize(self._context)

    def copy_sequence(self, source: int, target: int, length: int | None = None) -> None:
        """Make `target` equal to `source`: it shares the cells in a unified cache, and is a copy otherwise.

        With `length`, it equals the first `length` tokens, which needs a unified cache without recurrent states.
        """
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1 if length is None else length)

    def remove(self, sequence: int, start: int = 0) -> bool:
        """Forget `sequence` from position `start` on. False if a recurrent state cannot be cut there."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def clear(self) -> None:
        """Forget all sequences. The cells keep their data, but are masked."""
        lib.llama_memory_clear(self._memory, False)
