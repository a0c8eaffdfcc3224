"""The ggml functions that `llama_cpp` does not declare, and checks that the installed build matches the declarations.

Source: ggml.h and llama.h as shipped with llama-cpp-python. Names of types and block sizes are read from the library
and not repeated here.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from converters.errors import InputError, MissingRuntime

# Without this, a failed assertion in ggml attaches gdb to the process before it aborts.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

try:
    from llama_cpp import llama_cpp as lib
except (ImportError, OSError, RuntimeError) as error:
    raise MissingRuntime(f"llama.cpp cannot be loaded ({error}); install llama-cpp-python >= 0.3.36") from error

ggml: Any = lib._lib  # also resolves symbols of libggml and libggml-base, on which libllama depends

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """The beginning of ggml_type_traits, with all fields that are read here."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
    ]


class InitParams(ctypes.Structure):
    """ggml_init_params: memory of a context in bytes, its address (NULL: ggml allocates), no data for its tensors."""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_DECLARATIONS: Mapping[str, tuple[list[Any], Any]] = {
    "ggml_type_name": ([ctypes.c_int], ctypes.c_char_p),
    "ggml_type_size": ([ctypes.c_int], ctypes.c_size_t),
    "ggml_blck_size": ([ctypes.c_int], ctypes.c_int64),
    "ggml_row_size": ([ctypes.c_int, ctypes.c_int64], ctypes.c_size_t),
    "ggml_is_quantized": ([ctypes.c_int], ctypes.c_bool),
    "ggml_quantize_requires_imatrix": ([ctypes.c_int], ctypes.c_bool),
    "ggml_quantize_chunk": (
        [
            ctypes.c_int,  # type
            ctypes.c_void_p,  # const float * src
            ctypes.c_void_p,  # void * dst
            ctypes.c_int64,  # first element
            ctypes.c_int64,  # rows
            ctypes.c_int64,  # elements per row
            ctypes.c_void_p,  # const float * imatrix
        ],
        ctypes.c_size_t,
    ),
    "ggml_validate_row_data": ([ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_bool),
    "ggml_get_type_traits": ([ctypes.c_int], ctypes.POINTER(_TypeTraits)),
    "ggml_bf16_to_fp32_row": ([ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None),
    "ggml_fp16_to_fp32_row": ([ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None),
    "ggml_set_abort_callback": ([ctypes.c_void_p], ctypes.c_void_p),
    "ggml_op_name": ([ctypes.c_int], ctypes.c_char_p),
    "ggml_tensor_overhead": ([], ctypes.c_size_t),
    "ggml_nbytes": ([ctypes.c_void_p], ctypes.c_size_t),
    "ggml_backend_tensor_get": (
        [
            ctypes.c_void_p,  # const tensor *
            ctypes.c_void_p,  # void * data
            ctypes.c_size_t,  # first byte of the tensor
            ctypes.c_size_t,  # bytes
        ],
        None,
    ),
    "ggml_backend_cpu_buffer_type": ([], ctypes.c_void_p),
    "ggml_backend_dev_buffer_type": ([ctypes.c_void_p], ctypes.c_void_p),
    "ggml_init": ([InitParams], ctypes.c_void_p),
    "ggml_free": ([ctypes.c_void_p], None),
    "ggml_new_tensor_3d": ([ctypes.c_void_p, ctypes.c_int, *[ctypes.c_int64] * 3], ctypes.c_void_p),
    "ggml_set_name": ([ctypes.c_void_p, ctypes.c_char_p], ctypes.c_void_p),
    "ggml_transpose": ([ctypes.c_void_p, ctypes.c_void_p], ctypes.c_void_p),
    "ggml_mul_mat": ([ctypes.c_void_p] * 3, ctypes.c_void_p),
    "ggml_mul_mat_id": ([ctypes.c_void_p] * 4, ctypes.c_void_p),
}

for _name, (_argtypes, _restype) in _DECLARATIONS.items():
    try:
        _function = getattr(ggml, _name)
    except AttributeError as error:
        raise MissingRuntime(f"this llama.cpp build lacks {_name}; install llama-cpp-python >= 0.3.36") from error
    _function.argtypes, _function.restype = _argtypes, _restype


@dataclass(frozen=True)
class TensorType:
    """A ggml tensor type: its number in files, its name in upper case, and the size of its blocks."""

    id: int
    name: str
    block_elements: int
    block_bytes: int

    def row_bytes(self, elements: int) -> int:
        """Bytes of a row of `elements` values; `elements` must be a multiple of the block."""
        return elements // self.block_elements * self.block_bytes


def _read_types() -> dict[str, TensorType]:
    defaults = lib.llama_model_quantize_default_params()
    count = defaults.token_embedding_type  # "not set" is GGML_TYPE_COUNT
    # If the fields of the struct have moved, this check fails before any call uses the wrong fields.
    if not (
        count == defaults.output_tensor_type and 32 <= count <= 256 and defaults.ftype == lib.LLAMA_FTYPE_MOSTLY_Q8_0
    ):
        raise MissingRuntime(
            "llama_model_quantize_params does not have the layout that llama_cpp declares; reinstall llama-cpp-python"
        )
    types = {}
    for number in range(count):
        block_elements, block_bytes = ggml.ggml_blck_size(number), ggml.ggml_type_size(number)
        if block_elements > 0 and block_bytes > 0:  # types that were removed keep their number, with a size of 0
            name = ggml.ggml_type_name(number).decode().upper()
            types[name] = TensorType(number, name, block_elements, block_bytes)
    return types


def to_float(type_: TensorType) -> Callable[[int, int, int], None]:
    """ggml's conversion to float32 for a quantized type, called as (source address, target address, elements)."""
    traits = ggml.ggml_get_type_traits(type_.id).contents
    if traits.type_name.decode().upper() != type_.name or traits.type_size != type_.block_bytes or not traits.to_float:
        raise MissingRuntime(
            "ggml_type_traits does not have the declared layout; install the pinned version of llama-cpp-python"
        )
    function: Callable[[int, int, int], None] = traits.to_float
    return function


TYPES: Mapping[str, TensorType] = MappingProxyType(_read_types())
TYPES_BY_ID: Mapping[int, TensorType] = MappingProxyType({entry.id: entry for entry in TYPES.values()})

if [TYPES[name].id for name in ("F32", "F16", "Q8_0", "Q6_K", "BF16")] != [0, 1, 8, 14, 30]:
    raise MissingRuntime("this llama.cpp and GGUF files number tensor types differently; reinstall llama-cpp-python")


def type_named(name: str) -> TensorType:
    """The tensor type called `name` ("F16", "q8_0", ...). Raises InputError if this llama.cpp does not have it."""
    try:
        return TYPES[name.upper()]
    except KeyError:
        raise InputError(f"unknown tensor type {name!r}; known: {', '.join(TYPES)}") from None


@functools.cache
def start_backend() -> None:
    """Initialise llama.cpp's backends, once per process."""
    lib.llama_backend_init()


_ABORT_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_abort_callback: Any = None  # kept alive, because the library may call it at any time


def on_abort(report: Callable[[str], None]) -> None:
    """Call `report(message)` when a GGML_ASSERT fails. The process aborts as soon as `report` returns."""
    global _abort_callback

    def called(message: bytes) -> None:
        report(message.decode(errors="replace").strip())

    _abort_callback = _ABORT_CALLBACK(called)
    ggml.ggml_set_abort_callback(ctypes.cast(_abort_callback, ctypes.c_void_p))
