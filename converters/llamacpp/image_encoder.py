"""The vision tower and projector of a model (an mmproj file), run by llama.cpp's multi-modal library (libmtmd).

The library only turns one image into embeddings here. An image has its final size already, at which the library neither
resizes nor adds a border, so its own preprocessing is reduced to the normalization. Prompts and positions are the
caller's. Documentation of the API: `tools/mtmd/mtmd.h` of llama.cpp.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError, MissingRuntime
from converters.llamacpp import log
from converters.llamacpp.bindings import lib, start_backend
from converters.llamacpp.container import Field
from converters.llamacpp.model import FLASH_ATTENTION, Model, available_cpus
from converters.llamacpp.reader import read_header

MAX_TOKENS = 1 << 16
"""A limit above that of every checkpoint, so that the library accepts every size that was chosen before."""


class LlamaImageEncoder:
    """A loaded projector file. Close it before its text model, or use it once for the model's lifetime.

    Attributes:
        width: values of each token's embedding: the text model's width, times one more than its DeepStack layers.

    Whether the file belongs to the text model is the caller's check: llama.cpp compares only the width. Raises
    InputError if the file is missing, damaged or of another width; MissingRuntime if this build of llama.cpp has no
    libmtmd.
    """

    def __init__(
        self, path: Path, model: Model, *, flash_attn: str = "auto", n_threads: int | None = None, use_gpu: bool = False
    ) -> None:
        self.path = path
        metadata = read_header(path).metadata
        stacked = lib.llama_model_n_embd_inp(model._model) // lib.llama_model_n_embd(model._model) - 1
        if stacked >= lib.llama_model_n_layer(model._model):  # llama.cpp would abort the process
            raise InputError(f"{model.path}: llama.cpp cannot compute a model with DeepStack in its last layer")
        self.patch_size, self.merge_size = (
            _number(metadata, f"clip.vision.{key}", 2) for key in ("patch_size", "spatial_merge_size")
        )
        self.mean, self.std = (_numbers(metadata, f"clip.vision.image_{key}") for key in ("mean", "std"))
        self._mtmd = _library()
        start_backend()
        params = self._mtmd.mtmd_context_params_default()
        params.use_gpu = use_gpu
        params.print_timings = False
        params.warmup = False  # it would reserve memory for a large image
        params.n_threads = n_threads or available_cpus()
        params.flash_attn_type = FLASH_ATTENTION[flash_attn]
        params.image_min_tokens, params.image_max_tokens = 1, MAX_TOKENS
        with log.capture() as captured:
            self._context = self._mtmd.mtmd_init_from_file(os.fsencode(path), model._model, params)
        if not self._context:
            raise InputError(
                f"{path}: llama.cpp cannot use this projector file with {model.path}: "
                f"{captured.errors or 'no reason given'}"
            )
        self.width: int = lib.llama_model_n_embd_inp(model._model)

    def close(self) -> None:
        if self._context:
            self._mtmd.mtmd_free(self._context)
            self._context = None

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The embeddings of an image, float32 (tokens, width).

        `pixels` is RGB, uint8 (height, width, 3), both multiples of patch_size * merge_size. Raises InputError with
        llama.cpp's message if it cannot encode the image.
        """
        mtmd = self._mtmd
        height, width, _ = pixels.shape
        unit = self.patch_size * self.merge_size
        data = np.ascontiguousarray(pixels, np.uint8)
        with ExitStack() as stack, log.capture() as captured:
            bitmap = mtmd.mtmd_bitmap_init(width, height, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
            stack.callback(mtmd.mtmd_bitmap_free, bitmap)
            chunks = mtmd.mtmd_input_chunks_init()
            stack.callback(mtmd.mtmd_input_chunks_free, chunks)
            part = mtmd.mtmd_input_part(bitmap=bitmap)
            parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
            status = mtmd.mtmd_tokenize_from_parts(self._context, chunks, parts, 1, False)
            for i in range(mtmd.mtmd_input_chunks_size(chunks) if status == 0 else 0):
                chunk = mtmd.mtmd_input_chunks_get(chunks, i)
                if mtmd.mtmd_input_chunk_get_type(chunk) != mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                    continue  # the tokens around the image, which belong to the prompt
                tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
                if tokens != (height // unit) * (width // unit):
                    raise InputError(
                        f"{self.path}: llama.cpp resized an image of {width} x {height} to {tokens} tokens"
                    )
                if mtmd.mtmd_encode_chunk(self._context, chunk) == 0:
                    found = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self._context), (tokens, self.width))
                    return found.astype(np.float32)  # a copy: the buffer belongs to the library
        raise InputError(
            f"{self.path}: llama.cpp cannot encode an image of {width} x {height} pixels: "
            f"{captured.errors or 'no reason given'}"
        )


def _library() -> Any:
    """The module of llama-cpp-python that declares libmtmd's functions."""
    try:
        from llama_cpp import mtmd_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingRuntime(f"llama.cpp's library for images cannot be loaded ({error})") from error
    for set_callback in (mtmd_cpp.mtmd_log_set, mtmd_cpp.mtmd_helper_log_set):
        set_callback(log.callback, ctypes.c_void_p(0))
    return mtmd_cpp


def _number(metadata: Mapping[str, Field], key: str, default: int) -> int:
    field = metadata.get(key)
    return default if field is None else int(field.value)


def _numbers(metadata: Mapping[str, Field], key: str) -> tuple[float, ...]:
    field = metadata.get(key)
    return () if field is None else tuple(field.value)
