"""A model to GGUF files of many quants in one pass: each weight is read once and quantized to every type asked for.

Rows are quantized independently, so the work is cut into runs of rows; each run is read, converted and written to its
place in every file by one thread. Memory is bounded by threads x run, whatever the model's size.
"""

import contextlib
import errno
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.errors import InputError
from converters.llamacpp.bindings import TensorType
from converters.llamacpp.container import (
    Field,
    TensorInfo,
    data_bytes,
    encode_header,
    string,
    tensor_order,
    text,
    uint32,
)
from converters.llamacpp.plan import plan_types
from converters.llamacpp.quantize import is_valid, quantize_rows, to_float32
from converters.recipes import Recipe, recipes
from converters.source import Source, open_source

__all__ = ["FilePlan", "Progress", "TypeCount", "export", "open_source", "plan_export"]

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
RUN_ELEMENTS = 1 << 18  # 1 MiB of float32: fits a core's cache, and a call's overhead vanishes in it
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


IMATRIX_TYPES = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
"""Types that llama.cpp's quantizer refuses to make without importance."""
MTP_TYPE = "Q4_K"
"""What MTP layers get in files of such types: they never run while importance is collected."""


@dataclass(frozen=True)
class Importance:
    """What each column of each matrix weighs: tensor -> float32 [matrices, columns]; and what a file says of it."""

    weights: Mapping[str, npt.NDArray[np.float32]]
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class TypeCount:
    """How much of a file is of one type."""

    tensors: int
    weights: int
    bytes: int


@dataclass(frozen=True)
class FilePlan:
    """A GGUF file before it is made: its metadata, and every tensor with its type and place."""

    recipe: Recipe
    metadata: Mapping[str, Field]
    tensors: tuple[TensorInfo, ...]

    @cached_property
    def header(self) -> bytes:
        """The bytes before the data section."""
        return encode_header(self.metadata, self.tensors)

    @property
    def quant(self) -> str:
        return self.recipe.name

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return len(self.header) + data_bytes(self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors without padding."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data for each weight, as llama.cpp counts them: header and padding left out."""
        return 8 * self.tensor_bytes / self.weights

    @property
    def mtp_bytes(self) -> int:
        """Bytes of the tensors of multi-token prediction layers, which come after the others."""
        prefix = text(self.metadata, "general.architecture")
        mtp = self.metadata.get(f"{prefix}.nextn_predict_layers")
        if mtp is None:
            return 0
        first = self.metadata[f"{prefix}.block_count"].value - mtp.value
        return sum(tensor.nbytes for tensor in self.tensors if tensor_order(tensor.name)[0] >= first)

    @property
    def census(self) -> dict[str, TypeCount]:
        """How many tensors, weights and bytes each type has, the type with most bytes first."""
        groups: dict[str, list[TensorInfo]] = {}
        for tensor in self.tensors:
            groups.setdefault(tensor.type.name, []).append(tensor)
        counts = {
            name: TypeCount(len(group), sum(t.elements for t in group), sum(t.nbytes for t in group))
            for name, group in groups.items()
        }
        return dict(sorted(counts.items(), key=lambda item: -item[1].bytes))


@dataclass(frozen=True)
class Progress:
    """How far an export is: bytes written of all files, and the tensor at work."""

    done_bytes: int
    total_bytes: int
    tensor: str


def plan_export(source: Source, quants: Sequence[str], importance: Importance | None = None) -> dict[str, FilePlan]:
    """What each file would be: exact bytes, and the type of every tensor by llama.cpp's own decision.

    Needs names, shapes and types only; no weight is read. Keys are the recipes' names in the order asked for.
    Raises InputError for an unknown quant, one that needs an importance matrix where there is none, and for an
    importance matrix of another model.
    """
    if importance is not None:
        _check_importance(source, importance)
    plans = {}
    for recipe in recipes(quants):
        if recipe.needs_imatrix and importance is None:
            raise InputError(f"{recipe.name} needs an importance matrix; give one by --imatrix FILE")
        overrides = _overrides(source, recipe)
        tensors = plan_types(source.metadata, source.tensors, recipe.ftype, overrides, importance is not None)
        if importance is not None:
            _check_coverage(recipe, tensors, importance)
        plans[recipe.name] = FilePlan(recipe, _file_metadata(source.metadata, recipe, importance), tensors)
    return plans


def _overrides(source: Source, recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """The types that llama.cpp is told: those of a mix, and of MTP layers, which no importance matrix covers."""
    prefix = text(source.metadata, "general.architecture")
    blocks = source.metadata[f"{prefix}.block_count"].value if f"{prefix}.block_count" in source.metadata else 0
    mtp = source.metadata.get(f"{prefix}.nextn_predict_layers")
    layers = blocks - (mtp.value if mtp is not None else 0)
    names = {tensor.name for tensor in source.tensors}
    result = recipe.mix.overrides(layers, "output.weight" not in names) if recipe.mix is not None else ()
    if recipe.needs_imatrix and layers < blocks:
        return (*((rf"^blk\.{block}\.", MTP_TYPE) for block in range(layers, blocks)), *result)
    return result


def _check_importance(source: Source, importance: Importance) -> None:
    shapes = {tensor.name: tensor.shape for tensor in source.tensors}
    known = [name for name in importance.weights if name in shapes]
    if not known:
        raise InputError("the importance matrix names no tensor of this model; it was made for another one")
    for name in known:
        matrices, columns = math.prod(shapes[name][:-2]), shapes[name][-1]
        if importance.weights[name].shape != (matrices, columns):
            raise InputError(
                f"the importance matrix has {importance.weights[name].shape} values for {name}, which has"
                f" {(matrices, columns)}; it was made for another model"
            )


def _check_coverage(recipe: Recipe, tensors: Sequence[TensorInfo], importance: Importance) -> None:
    for tensor in tensors:
        needed = tensor.type.name in IMATRIX_TYPES or (recipe.name == "Q2_K_S" and tensor.type.name == "Q2_K")
        if needed and tensor.name not in (*importance.weights, "token_embd.weight", "output.weight"):
            raise InputError(
                f"{recipe.name} makes {tensor.name} {tensor.type.name}, which needs an importance matrix, and the one"
                " given has nothing for it: compute it from more text"
            )


def _file_metadata(metadata: Mapping[str, Field], recipe: Recipe, importance: Importance | None) -> dict[str, Field]:
    # These last, as llama.cpp's quantizer leaves them: the files are then equal to the last byte.
    own = {"general.quantization_version": uint32(QUANTIZATION_VERSION), "general.file_type": uint32(recipe.ftype)}
    if recipe.mix is not None:
        own["bitsweep.recipe"] = string(recipe.label)
    if importance is not None:
        own |= importance.fields
    return {**{key: field for key, field in metadata.items() if key not in own}, **own}


def export(
    source: Source,
    targets: Mapping[str, Path],
    progress: Callable[[Progress], None] | None = None,
    threads: int | None = None,
    importance: Importance | None = None,
) -> dict[str, FilePlan]:
    """Write `source` as every quant of `targets` (name -> path of the file) and return what was written.

    Each file appears under its name only when all are complete and on the disk; until then it lies beside, under a
    temporary name that goes if anything fails, Ctrl-C included. `progress` is called from this thread.
    Raises InputError for what `plan_export` refuses, for weights that are NaN or infinite, for targets that cannot
    be written or that are the source itself, and for a disk too small: checked before, and noticed while writing.
    """
    plans = plan_export(source, list(targets), importance)
    paths = {plan.quant: Path(path) for plan, path in zip(plans.values(), targets.values(), strict=True)}
    for path in paths.values():
        if path.exists() and path.resolve() == source.path.resolve():
            raise InputError(f"{path}: is the source itself; choose another name")
    if len({path.resolve() for path in paths.values()}) < len(paths):
        raise InputError(f"{next(iter(paths.values())).parent}: two quants have the same file name")
    _check_space(plans, paths)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(_beside(path, plans[name].file_bytes)) for name, path in paths.items()}
        for name, file in files.items():
            file.write(plans[name].header, 0)
            file.extend(plans[name].file_bytes)
        weights = {} if importance is None else importance.weights
        runs = _runs(source, plans, files, weights)
        total = sum(plan.tensor_bytes for plan in plans.values())
        _write_tensors(source, runs, total, progress or (lambda _: None), threads or os.cpu_count() or 1)
        for file in files.values():
            file.finish()
        for file in files.values():
            file.publish()
    return plans


def _check_space(plans: Mapping[str, FilePlan], paths: Mapping[str, Path]) -> None:
    needed: dict[Path, int] = {}
    for name, path in paths.items():
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such directory; make it first")
        needed[path.parent.resolve()] = needed.get(path.parent.resolve(), 0) + plans[name].file_bytes
    for directory, size in needed.items():
        free = shutil.disk_usage(directory).free
        if free < size:
            raise InputError(
                f"{directory}: {size} bytes are needed, {free} are free; free some or choose another place"
            )


class _PartialFile:
    """A file being written beside its final name."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        try:
            self._descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        self.partial: Path | None = Path(name)

    def write(self, data: bytes | npt.NDArray[np.uint8], offset: int) -> None:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # numpy arrays are buffers
        with self._explained():
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                view, offset = view[count:], offset + count

    def extend(self, size: int) -> None:
        with self._explained():
            os.ftruncate(self._descriptor, size)

    def finish(self) -> None:
        assert self.partial is not None
        with self._explained():
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(self._descriptor, 0o666 & ~umask)  # mkstemp's files are private; these are as any other
            os.fsync(self._descriptor)

    def publish(self) -> None:
        assert self.partial is not None
        with self._explained():
            os.replace(self.partial, self.path)
            self.partial = None
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        os.close(self._descriptor)
        if self.partial is not None:
            self.partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise InputError(
                    f"{self.path}: the disk is full or a quota is reached ({error.strerror});"
                    f" this file needs {self.size} bytes"
                ) from error
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _beside(path: Path, size: int) -> Iterator[_PartialFile]:
    file = _PartialFile(path, size)
    try:
        yield file
    finally:
        file.discard()


@dataclass(frozen=True)
class _Run:
    """Rows `start` to `stop` of a tensor, and where they go: for each type, (file, offset of the tensor's data)."""

    tensor: TensorInfo
    start: int
    stop: int
    places: Mapping[TensorType, tuple[tuple[_PartialFile, int], ...]]
    importance: npt.NDArray[np.float32] | None  # of the matrix that the rows are of


def _runs(
    source: Source,
    plans: Mapping[str, FilePlan],
    files: Mapping[str, _PartialFile],
    importance: Mapping[str, npt.NDArray[np.float32]],
) -> Iterator[_Run]:
    targets = {name: {tensor.name: tensor for tensor in plan.tensors} for name, plan in plans.items()}
    for tensor in source.tensors:
        places: dict[TensorType, list[tuple[_PartialFile, int]]] = {}
        for name, file in files.items():
            target = targets[name][tensor.name]
            places.setdefault(target.type, []).append((file, len(plans[name].header) + target.offset))
        frozen = {type_: tuple(entries) for type_, entries in places.items()}
        rows, width = tensor.elements // tensor.shape[-1], tensor.shape[-1]
        step = max(1, RUN_ELEMENTS // width)
        weights = importance.get(tensor.name)
        matrix = rows if weights is None else rows // len(weights)  # rows of one; a run has rows of one only
        for first in range(0, rows, matrix):
            own = None if weights is None else weights[first // matrix]
            for start in range(first, first + matrix, step):
                yield _Run(tensor, start, min(start + step, first + matrix), frozen, own)


def _convert(source: Source, run: _Run) -> int:
    rows, stored = source.read_rows(run.tensor.name, run.start, run.stop)
    values = to_float32(rows, stored)
    name = source.stored_name(run.tensor.name)
    if not np.isfinite(values).all():
        row, column = (int(axis[0]) for axis in np.nonzero(~np.isfinite(values)))
        raise InputError(
            f"{source.path}: tensor {name!r} has {values[row, column]} at row {run.start + row},"
            f" column {column}; the weights are damaged"
        )
    written = 0
    for type_, places in run.places.items():
        data = rows.view(np.uint8) if type_ == stored else quantize_rows(values, type_, run.importance)
        if not is_valid(data, type_):
            raise InputError(
                f"{source.path}: tensor {name!r} has values beyond what {type_.name} can hold"
                f" (largest {float(np.abs(values).max()):g}); choose another quant"
            )
        for file, offset in places:
            file.write(np.ascontiguousarray(data), offset + run.start * data.shape[1])
            written += data.nbytes
    return written


def _write_tensors(
    source: Source, runs: Iterable[_Run], total: int, progress: Callable[[Progress], None], threads: int
) -> None:
    done = 0
    pending: deque[tuple[_Run, Future[int]]] = deque()

    def settle() -> None:
        nonlocal done
        run, future = pending.popleft()
        done += future.result()
        progress(Progress(done, total, run.tensor.name))

    with ThreadPoolExecutor(threads) as pool:
        try:
            for run in runs:
                pending.append((run, pool.submit(_convert, source, run)))
                if len(pending) > 2 * threads:  # enough to keep all busy, few enough to bound memory
                    settle()
            while pending:
                settle()
        except BaseException:
            for _, future in pending:
                future.cancel()
            raise
