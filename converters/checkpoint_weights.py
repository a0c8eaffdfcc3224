"""The rows of GGUF tensors, gathered from the tensors that a Hugging Face checkpoint stores."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from converters import fp8
from converters.architectures.family import IGNORED, Part, Weight
from converters.checkpoint import WEIGHT_DTYPES, Checkpoint, StoredTensor
from converters.errors import InputError
from converters.llamacpp.bindings import TYPES, TensorType
from converters.llamacpp.quantize import to_float32

_FP8 = "F8_E4M3"


class CheckpointWeights:
    """The tensors of a checkpoint to which `canonical` gives a name, as weights of a GGUF file.

    `block` is the size of FP8 blocks, if the checkpoint is in that format. Raises InputError if two tensors get the
    same name.
    """

    def __init__(
        self, checkpoint: Checkpoint, canonical: Callable[[str], str | None], block: tuple[int, int] | None
    ) -> None:
        self.checkpoint, self._block = checkpoint, block
        self.stored: dict[str, str] = {}  # canonical name -> stored name
        for stored in checkpoint.tensors:
            name = canonical(stored)
            if name is not None and self.stored.setdefault(name, stored) != stored:
                raise InputError(
                    f"{checkpoint.path}: tensors {self.stored[name]!r} and {stored!r} are two names of the same weight"
                )
        self._weights: dict[str, Weight] = {}
        self._starts: dict[str, list[int]] = {}  # of each weight's parts, in its rows

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its canonical name."""
        return {name: self.checkpoint.tensors[stored].shape for name, stored in self.stored.items()}

    def choose(self, weights: Sequence[Weight]) -> list[Weight]:
        """Those of `weights` that the checkpoint has, which are all but optional ones; their rows can be read then.

        Raises InputError if a tensor is missing or does not match the config.
        """
        present = [weight for weight in weights if self._is_present(weight)]
        self._weights = {weight.name: weight for weight in present}
        self._starts = {weight.name: [0, *accumulate(part.rows for part in weight.parts)] for weight in present}
        return present

    def reject_unexpected(self, model: str, is_left_out: Callable[[str], bool]) -> None:
        """Raise InputError for a tensor that no weight uses. `model` names in the message what it is no part of."""
        known = {part.source for weight in self._weights.values() for part in weight.parts}
        if self._block is not None:
            known |= {source + fp8.SCALE_SUFFIX for source in known}
        for name, stored in self.stored.items():
            if name not in known and not is_left_out(name) and not name.endswith(IGNORED):
                tensor = self.checkpoint.tensors[stored]
                raise InputError(
                    f"{tensor.path}: tensor {stored[:120]!r} {tensor.shape} is not part of a {model} with this config"
                )

    def type_of(self, name: str) -> TensorType:
        """The type in which a weight's rows are read; FP8 is read as bfloat16."""
        dtype = self._tensor(self._weights[name].parts[0].source).dtype
        return TYPES["BF16" if dtype == _FP8 else dtype]

    def stored_name(self, name: str, row: int = 0) -> str:
        """See `Source.stored_name`."""
        return self.stored[self._weights[name].part_at(row).source]

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """See `Source.read_rows`."""
        weight, starts, type_ = self._weights[name], self._starts[name], self.type_of(name)
        pieces = []
        index = bisect_right(starts, start) - 1
        while start < stop:
            first, end = starts[index], min(stop, starts[index + 1])
            pieces.append(self._read_part(weight.parts[index], start - first, end - first))
            start, index = end, index + 1
        rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if weight.tiling is not None:
            rows = weight.tiling.columns(rows)
        if weight.value is not None:
            if type_.name == "BF16":  # numpy cannot compute in bfloat16
                rows, type_ = to_float32(rows, type_), TYPES["F32"]
            rows = weight.value(rows)
        return rows, type_

    def _tensor(self, source: str) -> StoredTensor:
        return self.checkpoint.tensors[self.stored[source]]

    def _read_part(self, part: Part, start: int, stop: int) -> npt.NDArray[np.generic]:
        stored = self._tensor(part.source)
        if part.columns is not None:
            first = part.columns[0]
            block = self.checkpoint.read_block(stored.name, part.start, part.stop, first + start, first + stop)
            return np.ascontiguousarray(block.T)
        rows = self.checkpoint.read_rows(stored.name, part.start + start, part.start + stop)
        if stored.dtype == _FP8:
            assert self._block is not None  # `_is_present` rejects FP8 without block sizes
            return fp8.dequantize(rows.view(np.uint8), self._scales(part.source), part.start + start, self._block)
        return rows

    def _scales(self, source: str) -> npt.NDArray[np.float32]:
        """All scales of an FP8 tensor as float32 [row blocks, column blocks]. There is one scale for 16,384 weights."""
        stored = self._tensor(source + fp8.SCALE_SUFFIX)
        rows = self.checkpoint.read_rows(stored.name, 0, stored.shape[0])
        return to_float32(rows, TYPES[stored.dtype])

    def _is_present(self, weight: Weight) -> bool:
        """Whether the checkpoint has all parts of `weight`; False only for an optional one.

        Raises InputError if a part is missing or does not match the config.
        """
        if weight.optional and weight.parts[0].source not in self.stored:
            return False
        dtypes = set()
        for part in dict.fromkeys((part.source, part.shape) for part in weight.parts):
            dtypes.add(self._check(*part))
        if len(dtypes) > 1:
            raise InputError(
                f"{self.checkpoint.path}: {weight.name} would combine tensors of different dtypes"
                f" ({' and '.join(sorted(dtypes))})"
            )
        return True

    def _check(self, source: str, shape: tuple[int, ...]) -> str:
        """The dtype of the tensor `source`. Raises InputError if it is missing or does not match the config."""
        if source not in self.stored:
            raise InputError(
                f"{self.checkpoint.path}: tensor {source!r} is missing; by config.json its shape is {shape}"
            )
        stored = self._tensor(source)
        where = f"{stored.path}: tensor {stored.name!r}"
        if stored.shape != shape:
            raise InputError(f"{where} has shape {stored.shape}; by config.json it should be {shape}")
        if stored.dtype == _FP8 and self._block is not None:
            blocks = tuple(-(-size // block) for size, block in zip(shape[-2:], self._block, strict=False))
            scales = self.stored.get(source + fp8.SCALE_SUFFIX)
            if len(shape) != 2 or scales is None or self.checkpoint.tensors[scales].shape != blocks:
                raise InputError(f"{where} is FP8, but has no {fp8.SCALE_SUFFIX} of shape {blocks}")
            if self.checkpoint.tensors[scales].dtype not in WEIGHT_DTYPES:
                raise InputError(
                    f"{where} has scales of dtype {self.checkpoint.tensors[scales].dtype}; F32, F16 or BF16 is needed"
                )
        elif stored.dtype not in WEIGHT_DTYPES:
            raise InputError(f"{where} has dtype {stored.dtype}; only {', '.join(WEIGHT_DTYPES)} can be exported")
        return stored.dtype
