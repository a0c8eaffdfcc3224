"""Export of a model to GGUF files of several quants in one pass: each weight is read once and quantized to all types.

Rows are quantized independently, so the work is divided into runs of rows. One thread reads a run, converts it and
writes it to its place in every file. Memory is bounded by threads x run size, independent of the model's size.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from converters.errors import InputError
from converters.llamacpp.bindings import TensorType
from converters.llamacpp.container import TensorInfo
from converters.llamacpp.ghost import ghost
from converters.llamacpp.memory import require_loadable
from converters.llamacpp.quantize import is_valid, quantize_rows, to_float32
from converters.partial import PartialFile
from converters.plan import FilePart, FilePlan, Importance, plan_export
from converters.resolver import open_source
from converters.source import Source

__all__ = ["ExportProgress", "export", "open_source"]

RUN_ELEMENTS = 1 << 18  # 1 MiB of float32: fits a core's cache and makes the overhead per call negligible
BYTES_PER_ELEMENT = 24
"""Most bytes that a thread holds per weight of its run: as stored, as float32, checked, and as the widest type."""
SAVE_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class ExportProgress:
    """Progress of an export: bytes written of all files, and the tensor being written."""

    done_bytes: int
    total_bytes: int
    tensor: str


def export(
    source: Source,
    targets: Mapping[str, Path],
    progress: Callable[[ExportProgress], None] | None = None,
    threads: int | None = None,
    importance: Importance | None = None,
    max_part_bytes: int | None = None,
    memory_budget: int | None = None,
) -> dict[str, FilePlan]:
    """Write `source` as every quant of `targets` (quant -> path of the file) and return the plans of the files.

    The files appear under their names only when all of them are complete and on the disk, and llama.cpp can load them
    (it tries without allocating memory). Until then each is in the same directory as `.NAME.partial`. After an
    interrupt these stay, and the same export resumes from them, tensor by tensor; after an InputError they are removed.
    `progress` is called from this thread. For `max_part_bytes` see `FilePlan`. `memory_budget` bounds the resident
    bytes of this process through shorter runs and fewer threads.

    Raises InputError for what `plan_export` rejects, for weights that are NaN or infinite, for targets that cannot be
    written or are the source itself, for a full disk (checked before and while writing), and for a budget that is too
    small.
    """
    plans = plan_export(source, list(targets), importance, max_part_bytes)
    paths = {plan.quant: plan.paths(Path(path)) for plan, path in zip(plans.values(), targets.values(), strict=True)}
    every = [path for own in paths.values() for path in own]
    for path in every:
        if path.exists() and path.resolve() == source.path.resolve():
            raise InputError(f"{path}: is the source itself; choose another file name")
    if len({path.resolve() for path in every}) < len(every):
        raise InputError(f"{every[0].parent}: two quants have the same file name; give each its own")
    identity = _identity(source, importance)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as checker:
        outputs = [
            _Output(part, stack.enter_context(_open_partial(path, part, identity)))
            for name, own in paths.items()
            for path, part in zip(own, plans[name].parts, strict=True)
        ]
        _check_space(outputs)
        for output in outputs:
            output.file.write(output.part.header, 0)
        # llama.cpp checks the files while the weights are written, because it reads only their headers.
        check = checker.submit(_check_loadable, source, list(plans.values()), outputs)
        if memory_budget is not None:
            check.result()  # so that its memory does not add to that of the export
        threads, run_elements = _fit_to_budget(memory_budget, threads or os.cpu_count() or 1, source)
        columns = {} if importance is None else importance.weights
        _write_tensors(source, outputs, columns, progress or (lambda _: None), threads, run_elements)
        check.result()
        for output in outputs:
            output.file.finish()
        for output in outputs:
            output.file.publish()
    return plans


def _check_loadable(source: Source, plans: Sequence[FilePlan], outputs: Sequence["_Output"]) -> None:
    """Let llama.cpp load each file, the first with its vocabulary, which takes longest and is the same in all files."""
    first, *others = plans
    own = [output.file for output in outputs[: len(first.parts)]]
    require_loadable([file.temporary_path for file in own], own[0].path)
    for plan in others:
        with ghost(source.structure, plan.tensors) as path:
            require_loadable([path], f"{source.path} as {plan.quant}")


def _open_partial(path: Path, part: FilePart, identity: bytes) -> PartialFile:
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: there is no such directory; create it first")
    return PartialFile(path, part.file_bytes, hashlib.sha256(identity + part.header).digest())


def _identity(source: Source, importance: Importance | None) -> bytes:
    """A hash of what a file's bytes depend on besides its header: weights, importance, and the quantizer's version."""
    digest = hashlib.sha256(f"{source.fingerprint} llama-cpp-python {version('llama-cpp-python')}".encode())
    for name, weights in sorted({} if importance is None else importance.weights.items()):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(weights).tobytes())
    return digest.digest()


def _fit_to_budget(budget: int | None, threads: int, source: Source) -> tuple[int, int]:
    """The number of threads, and the largest number of weights per run."""
    if budget is None:
        return threads, RUN_ELEMENTS
    resident = psutil.Process().memory_info().rss
    row = max(tensor.shape[-1] for tensor in source.tensors)
    held = max(0, budget - resident) // BYTES_PER_ELEMENT
    if held < row:
        raise InputError(
            f"a memory budget of {budget} bytes is too small: the program itself takes {resident} bytes and the"
            f" widest row of this model {row * BYTES_PER_ELEMENT}"
        )
    threads = min(threads, held // row)
    return threads, min(RUN_ELEMENTS, held // threads)


@dataclass(frozen=True)
class _Output:
    """A part of a GGUF file, and the file it is written to."""

    part: FilePart
    file: PartialFile


def _check_space(outputs: Sequence[_Output]) -> None:
    """Check the free space of each disk before writing. Bytes of a resumed file that are on the disk already count."""
    needed: dict[Path, int] = {}
    for output in outputs:
        directory = output.file.path.parent.resolve()
        needed[directory] = needed.get(directory, 0) + max(0, output.part.file_bytes - output.file.allocated_bytes)
    for directory, size in needed.items():
        free = shutil.disk_usage(directory).free
        if free < size:
            raise InputError(
                f"{directory}: {size} bytes are needed, {free} are free; free some space or choose another directory"
            )


@dataclass(frozen=True)
class _RowRun:
    """Rows `start` to `stop` of a tensor, and where to write them: type -> (file, offset of the tensor's data).

    `importance` [columns] belongs to the matrix that contains the rows. `complete_tensors` is the number of tensors
    that are completely written after this run and all runs before it.
    """

    tensor: TensorInfo
    start: int
    stop: int
    places: Mapping[TensorType, tuple[tuple[PartialFile, int], ...]]
    importance: npt.NDArray[np.float32] | None
    complete_tensors: int


def _runs(
    source: Source,
    outputs: Sequence[_Output],
    importance: Mapping[str, npt.NDArray[np.float32]],
    run_elements: int,
) -> Iterator[_RowRun]:
    targets = [(output, {tensor.name: tensor for tensor in output.part.tensors}) for output in outputs]
    for index, tensor in enumerate(source.tensors):
        places: dict[TensorType, list[tuple[PartialFile, int]]] = {}
        for output, own in targets:
            target = own.get(tensor.name)
            if target is not None and index >= output.file.steps:
                places.setdefault(target.type, []).append((output.file, len(output.part.header) + target.offset))
        if not places:
            continue
        frozen = {type_: tuple(entries) for type_, entries in places.items()}
        rows, width = tensor.elements // tensor.shape[-1], tensor.shape[-1]
        step = max(1, run_elements // width)
        weights = importance.get(tensor.name)
        matrix = rows if weights is None else rows // len(weights)  # rows per matrix; a run never crosses matrices
        for first in range(0, rows, matrix):
            own_weights = None if weights is None else weights[first // matrix]
            for start in range(first, first + matrix, step):
                stop = min(start + step, first + matrix)
                yield _RowRun(tensor, start, stop, frozen, own_weights, index + (stop == rows))


def _write_run(source: Source, run: _RowRun) -> int:
    rows, stored = source.read_rows(run.tensor.name, run.start, run.stop)
    raw = np.ascontiguousarray(rows).view(np.uint8)
    if not is_valid(raw, stored):
        _raise_not_finite(source, run, to_float32(rows, stored))
    values = to_float32(rows, stored) if set(run.places) != {stored} else None  # many runs are only copied
    written = 0
    for type_, places in run.places.items():
        data = raw if type_ == stored or values is None else _quantized(source, run, values, type_)
        for file, offset in places:
            file.write(np.ascontiguousarray(data), offset + run.start * data.shape[1])
            written += data.nbytes
    return written


def _quantized(
    source: Source, run: _RowRun, values: npt.NDArray[np.float32], type_: TensorType
) -> npt.NDArray[np.uint8]:
    data = quantize_rows(values, type_, run.importance)
    if not is_valid(data, type_):
        row = int(np.abs(values).max(axis=1).argmax())
        raise InputError(
            f"{source.path}: tensor {source.stored_name(run.tensor.name, run.start + row)!r} has values beyond what"
            f" {type_.name} can hold (largest {float(np.abs(values).max()):g}); choose another quant"
        )
    return data


def _raise_not_finite(source: Source, run: _RowRun, values: npt.NDArray[np.float32]) -> None:
    """Raise InputError that names the first value that is NaN or infinite."""
    first, column = (int(axis[0]) for axis in np.nonzero(~np.isfinite(values)))
    row = run.start + first
    raise InputError(
        f"{source.path}: tensor {source.stored_name(run.tensor.name, row)!r} has {values[first, column]} (in"
        f" {run.tensor.name} row {row}, column {column}); the weights are damaged: download or save the model again"
    )


def _write_tensors(
    source: Source,
    outputs: Sequence[_Output],
    importance: Mapping[str, npt.NDArray[np.float32]],
    progress: Callable[[ExportProgress], None],
    threads: int,
    run_elements: int,
) -> None:
    position = {tensor.name: index for index, tensor in enumerate(source.tensors)}
    tensors = [
        (tensor.nbytes, output.file.steps > position[tensor.name])
        for output in outputs
        for tensor in output.part.tensors
    ]
    total, done = sum(size for size, _ in tensors), sum(size for size, known in tensors if known)
    pending: deque[tuple[_RowRun, Future[int]]] = deque()
    saved = time.monotonic()
    files = [output.file for output in outputs]
    written = 0  # tensors whose runs are all written

    def collect_oldest() -> None:
        nonlocal done, saved, written
        run, future = pending.popleft()
        done += future.result()
        written = run.complete_tensors
        progress(ExportProgress(done, total, run.tensor.name))
        if time.monotonic() - saved >= SAVE_EVERY:
            _save(files, written)
            saved = time.monotonic()

    with ThreadPoolExecutor(threads) as pool:
        try:
            for run in _runs(source, outputs, importance, run_elements):
                pending.append((run, pool.submit(_write_run, source, run)))
                if len(pending) > 2 * threads:  # enough to keep all threads busy, few enough to bound memory
                    collect_oldest()
            while pending:
                collect_oldest()
        except BaseException as error:
            for _, future in pending:
                future.cancel()
            if not isinstance(error, InputError):
                _save(files, written)
            raise


def _save(files: Sequence[PartialFile], written: int) -> None:
    """Record that `written` tensors are complete; a file in which more are complete keeps its own count."""
    for file in files:
        if file.steps < written:
            file.save(written)
