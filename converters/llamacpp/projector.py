"""The memory of a projector file (mmproj), computed by llama.cpp's multi-modal library without allocating it.

The library has no C function for this, so its C++ function `clip_init` is called by its mangled name; clip.h declares
it and its structures. Written for llama-cpp-python 0.3.36.
"""

import ctypes
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from converters.errors import InputError, MissingRuntime
from converters.llamacpp import log
from converters.llamacpp.bindings import start_backend
from converters.llamacpp.memory import MIB

RESERVED_PATCHES = (2 * 46) ** 2
"""Patches of the picture that llama.cpp reserves the compute buffer for when it loads a Qwen-VL projector file."""

_COMPUTE_LINE = re.compile(r"compute buffer size = +([\d.]+) MiB")
_AUTO = -1  # flash attention: wherever the device supports it


class _ClipParams(ctypes.Structure):
    """clip_context_params."""

    _fields_ = [
        ("use_gpu", ctypes.c_bool),
        ("device", ctypes.c_void_p),
        ("flash_attn_type", ctypes.c_int),
        ("image_min_tokens", ctypes.c_int),
        ("image_max_tokens", ctypes.c_int),
        ("warmup", ctypes.c_bool),
        ("cb_eval", ctypes.c_void_p),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
    ]


class _ClipResult(ctypes.Structure):
    """clip_init_result: the contexts for pictures and for sound."""

    _fields_ = [("vision", ctypes.c_void_p), ("audio", ctypes.c_void_p), ("generation", ctypes.c_void_p)]


@cache
def _functions() -> tuple[Callable[[bytes, _ClipParams], _ClipResult], Callable[[int], None]]:
    """clip_init and clip_free."""
    try:
        from llama_cpp import mtmd_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingRuntime(f"llama.cpp's multi-modal library cannot be loaded ({error})") from error
    library: Any = mtmd_cpp._libmtmd
    init, free = library._Z9clip_initPKc19clip_context_params, library._Z9clip_freeP8clip_ctx
    init.argtypes, init.restype = [ctypes.c_char_p, _ClipParams], _ClipResult
    free.argtypes, free.restype = [ctypes.c_void_p], None
    library.mtmd_log_set(log.callback, ctypes.c_void_p(0))
    return init, free


def projector_memory(path: Path, name: str | Path, flash_attention: bool | None = None) -> int:
    """Bytes of the compute buffer (a multiple of 0.01 MiB) that llama.cpp reserves for a projector file. Its weights
    take the bytes of their tensors in addition. They are not read, so the file may be a ghost.

    Raises InputError, which begins with `name`, if llama.cpp cannot load the file.
    """
    init, free = _functions()
    start_backend()
    chosen = _AUTO if flash_attention is None else int(flash_attention)
    params = _ClipParams(use_gpu=False, flash_attn_type=chosen, warmup=True, no_alloc=True)
    params.image_min_tokens = params.image_max_tokens = -1
    with log.capture() as captured:
        contexts = init(os.fsencode(path), params)
    if not contexts.vision:
        raise InputError(f"{name}: llama.cpp cannot load this projector file: {captured.errors or 'no reason given'}")
    for context in (contexts.vision, contexts.audio, contexts.generation):
        if context:
            free(context)
    return round(sum(map(float, _COMPUTE_LINE.findall(captured.text))) * MIB)
