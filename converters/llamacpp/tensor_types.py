"""The type that llama.cpp gives to each tensor of a model, from a dry run of its quantizer on a ghost file."""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp.bindings import TYPES, TensorType, lib, start_backend, type_named
from converters.llamacpp.container import Field, TensorInfo, lay_out, tensor_order
from converters.llamacpp.ghost import ghost
from converters.llamacpp.log import capture

# "[   3/  25] blk.0.attn_k.weight - [   64,    32,     1,     1], type =   bf16, size = 0.004 MiB -> 0.001 MiB (q3_K)"
_LINE = re.compile(
    r"^\[ *\d+/ *\d+\] (\S+) +- \[[^\]]*\], type = +(\w+), .*?size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((\w+)\))?", re.M
)


def plan_types(
    metadata: Mapping[str, Field],
    tensors: Sequence[TensorInfo],
    ftype: int,
    overrides: Sequence[tuple[str, str]] = (),
    imatrix: bool = False,
    ghost_path: Path | None = None,
) -> tuple[TensorInfo, ...]:
    """The tensors of the file that llama.cpp would write for `ftype` (a llama_ftype), in its order, with their offsets.

    - `metadata`, `tensors`: of the unquantized model.
    - `overrides`: (regular expression, name of a type); the first that is found in a tensor's name decides its type.
    - `imatrix`: whether there will be an importance matrix, on which llama.cpp's choice of some types depends.
    - `ghost_path`: a ghost of the model, if there is one already.

    Takes milliseconds and reads no weights. Raises InputError if llama.cpp rejects the model or the file type.
    """
    with ghost(metadata, tensors) if ghost_path is None else nullcontext(ghost_path) as path:
        chosen = _dry_run(path, ftype, overrides, imatrix)
    missing = [tensor.name for tensor in tensors if tensor.name not in chosen]
    if missing or len(chosen) != len(tensors):
        raise InputError(
            f"llama.cpp's plan for file type {ftype} does not list {', '.join(missing[:3]) or 'all tensors'}"
        )
    ordered = sorted(tensors, key=lambda tensor: tensor_order(tensor.name))
    return lay_out((tensor.name, tensor.shape, chosen[tensor.name]) for tensor in ordered)


def _dry_run(path: Path, ftype: int, overrides: Sequence[tuple[str, str]], imatrix: bool) -> dict[str, TensorType]:
    start_backend()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.nthread = ftype, True, 1
    params.allow_requantize = True
    # Both lists end with an entry without a name. A list of the second kind with only that entry means "with imatrix".
    patterns = (lib.llama_model_tensor_override * (len(overrides) + 1))(
        *((pattern.encode(), type_named(name).id) for pattern, name in overrides), (None, 0)
    )
    entries = (lib.llama_model_imatrix_data * 1)()
    if overrides:
        params.tt_overrides = patterns
    if imatrix:
        params.imatrix = entries
    with capture() as log:
        # A dry run never opens the second file.
        status = lib.llama_model_quantize(str(path).encode(), b"/dev/null", params)
    if status != 0:
        raise InputError(f"llama.cpp cannot plan file type {ftype}: {log.errors or 'no reason given'}")
    return {name: TYPES[(new or old).upper()] for name, old, new in _LINE.findall(log.text)}
