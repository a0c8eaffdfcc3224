"""Quantization of rows of weights to any ggml type, by the function that llama.cpp's own quantizer calls.

Rows are independent of each other, so a tensor can be quantized in runs of whole rows with the same bytes as a result.
Calls release Python's lock, so they can run in a thread pool.
"""

import numpy as np
import numpy.typing as npt

from converters.llamacpp.bindings import TYPES, TensorType, ggml, to_float

_TO_FLOAT = {"BF16": ggml.ggml_bf16_to_fp32_row, "F16": ggml.ggml_fp16_to_fp32_row}

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def to_float32(rows: npt.NDArray[np.generic], type_: TensorType) -> Float32:
    """Convert rows to float32 [n, k].

    `rows` are [n, k] in float32, float16 or bfloat16 (as uint16), or [n, row bytes] in a quantized type.
    """
    if type_.name == "F32":
        return np.ascontiguousarray(rows, np.float32)
    rows = np.ascontiguousarray(rows)
    known = _TO_FLOAT.get(type_.name)
    elements = rows.shape[1] if known else rows.shape[1] // type_.block_bytes * type_.block_elements
    result = np.empty((len(rows), elements), np.float32)
    (known or to_float(type_))(rows.ctypes.data, result.ctypes.data, result.size)
    return result


def quantize_rows(rows: Float32, type_: TensorType, importance: Float32 | None = None) -> Bytes:
    """Quantize `rows` [n, k] to `type_`, as uint8 [n, row bytes]. k must be a multiple of the type's block.

    `importance` [k] is the weight of each column's error. Raises ValueError for wrong shapes or dtypes, or if the type
    needs an importance that is missing.
    """
    n, k = rows.shape
    if k % type_.block_elements or rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise ValueError(f"rows of {k} {rows.dtype} values do not fit {type_.name}")  # otherwise ggml aborts
    if importance is None and ggml.ggml_quantize_requires_imatrix(type_.id):
        raise ValueError(f"{type_.name} needs an importance matrix")  # otherwise ggml aborts the process
    if importance is not None and (importance.shape != (k,) or importance.dtype != np.float32):
        raise ValueError(f"importance of {importance.shape} {importance.dtype} for rows of {k}")
    weights = None if importance is None else np.ascontiguousarray(importance)
    result = np.empty((n, type_.row_bytes(k)), np.uint8)
    written = ggml.ggml_quantize_chunk(
        type_.id, rows.ctypes.data, result.ctypes.data, 0, n, k, None if weights is None else weights.ctypes.data
    )
    if written != result.nbytes:
        raise RuntimeError(f"ggml_quantize_chunk wrote {written} bytes of {type_.name} instead of {result.nbytes}")
    return result


def is_valid(data: Bytes, type_: TensorType) -> bool:
    """Whether the bytes of rows contain no NaN or infinity. llama.cpp does not write rows that do."""
    return bool(ggml.ggml_validate_row_data(type_.id, data.ctypes.data, data.nbytes))


UNQUANTIZED = {name: TYPES[name] for name in ("F32", "F16", "BF16")}
"""The types that a model may have before quantization."""
