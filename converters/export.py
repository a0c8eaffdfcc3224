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
from converters.llamacpp.projector import projector_memory
from converters.llamacpp.quantize import is_valid, quantize_rows, to_float32
from converters.partial import PartialFile
from converters.plan import FilePart, FilePlan, Importance, plan_export
from converters.projector_source import ProjectorSource
from converters.resolver import open_source
from converters.source import Source

__all__ = ["Export", "ExportProgress", "export", "export_all", "open_source"]

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


@dataclass(frozen=True)
class Export:
    """What to write of one source: quant -> path of the file. For `max_part_bytes` see `FilePlan`."""

    source: Source
    targets: Mapping[str, Path]
    importance: Importance | None = None
    max_part_bytes: int | None = None


def export(
    source: Source,
    targets: Mapping[str, Path],
    progress: Callable[[ExportProgress], None] | None = None,
    threads: int | None = None,
    importance: Importance | None = None,
    max_part_bytes: int | None = None,
    memory_budget: int | None = None,
) -> dict[str, FilePlan]:
    """Write `source` as every quant of `targets` and return the plans of the files. See `export_all`."""
    (plans,) = export_all([Export(source, targets, importance, max_part_bytes)], progress, threads, memory_budget)
    return plans


def export_all(
    exports: Sequence[Export],
    progress: Callable[[ExportProgress], None] | None = None,
    threads: int | None = None,
    memory_budget: int | None = None,
) -> list[dict[str, FilePlan]]:
    """Write all files of `exports`, in one pass over their sources, and return the plans of each export's files.

    The files appear under their names only when all of them are complete and on the disk, and llama.cpp can load them
    (it tries without allocating memory). Until then each is in the same directory as `.NAME.partial`. After an
    interrupt these stay, and the same export resumes from them, tensor by tensor; after an InputError they are removed.
    `progress` is called from this thread. `memory_budget` bounds the resident bytes of this process through shorter
    runs and fewer threads.

    Raises InputError for what `plan_export` rejects, for weights that are NaN or infinite, for targets that cannot be
    written or are the source itself, for a full disk (checked before and while writing), and for a budget that is too
    small.
    """
    planned = [plan_export(one.source, list(one.targets), one.importance, one.max_part_bytes) for one in exports]
    paths = [
        [plan.paths(Path(path)) for plan, path in zip(plans.values(), one.targets.values(), strict=True)]
        for one, plans in zip(exports, planned, strict=True)
    ]
    _check_paths(exports, [path for files in paths for own in files for path in own])
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as checker:
        works = []
        for one, plans, files in zip(exports, planned, paths, strict=True):
            identity = _identity(one.source, one.importance)
            outputs = [
                _Output(part, stack.enter_context(_open_partial(path, part, identity)))
                for plan, own in zip(plans.values(), files, strict=True)
                for path, part in zip(own, plan.parts, strict=True)
            ]
            works.append(_Work(one, tuple(plans.values()), outputs))
        every = [output for work in works for output in work.outputs]
        _check_space(every)
        for output in every:
            output.file.write(output.part.header, 0)
        # llama.cpp checks the files while the weights are written, because it reads only their headers.
        checks = [checker.submit(_check_loadable, work) for work in works]
        if memory_budget is not None:
            for check in checks:
                check.result()  # so that its memory does not add to that of the export
        sources = [one.source for one in exports]
        threads, run_elements = _fit_to_budget(memory_budget, threads or os.cpu_count() or 1, sources)
        _write_tensors(works, progress or (lambda _: None), threads, run_elements)
        for check in checks:
            check.result()
        for output in every:
            output.file.finish()
        for output in every:
            output.file.publish()
    return planned


def _check_paths(exports: Sequence[Export], paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists() and any(path.resolve() == one.source.path.resolve() for one in exports):
            raise InputError(f"{path}: is the source itself; choose another file name")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f"{paths[0].parent}: two quants have the same file name; give each its own")


def _check_loadable(work: "_Work") -> None:
    """Let llama.cpp load each file, the first with its vocabulary, which takes longest and is the same in all files."""
    source = work.export.source
    first, *others = work.plans
    own = [output.file for output in work.outputs[: len(first.parts)]]
    if isinstance(source, ProjectorSource):
        for output in work.outputs:
            projector_memory(output.file.temporary_path, output.file.path)
        return
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


def _fit_to_budget(budget: int | None, threads: int, sources: Sequence[Source]) -> tuple[int, int]:
    """The number of threads, and the largest number of weights per run."""
    if budget is None:
        return threads, RUN_ELEMENTS
    resident = psutil.Process().memory_info().rss
    row = max(tensor.shape[-1] for source in sources for tensor in source.tensors)
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


@dataclass(frozen=True)
class _Work:
    """An export with its plans and the files that it writes."""

    export: Export
    plans: tuple[FilePlan, ...]
    outputs: Sequence[_Output]

    def runs(self, run_elements: int) -> Iterator["_RowRun"]:
        """All rows that are to be written, in order."""
        importance = self.export.importance
        return _runs(self.export.source, self.outputs, {} if importance is None else importance.weights, run_elements)

    def tensors(self) -> Iterator[tuple[int, bool]]:
        """The bytes of each tensor of each file, and whether an interrupted export wrote it already."""
        position = {tensor.name: index for index, tensor in enumerate(self.export.source.tensors)}
        for output in self.outputs:
            for tensor in output.part.tensors:
                yield tensor.nbytes, output.file.steps > position[tensor.name]

    def save(self, written: int) -> None:
        """Record that `written` tensors of the source are complete; a file in which more are keeps its own count."""
        for output in self.outputs:
            if output.file.steps < written:
                output.file.save(written)


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
    works: Sequence[_Work], progress: Callable[[ExportProgress], None], threads: int, run_elements: int
) -> None:
    tensors = [one for work in works for one in work.tensors()]
    total, done = sum(size for size, _ in tensors), sum(size for size, known in tensors if known)
    pending: deque[tuple[int, _RowRun, Future[int]]] = deque()
    saved = time.monotonic()
    written = [0] * len(works)  # tensors whose runs are all written

    def save() -> None:
        for work, count in zip(works, written, strict=True):
            work.save(count)

    def collect_oldest() -> None:
        nonlocal done, saved
        place, run, future = pending.popleft()
        done += future.result()
        written[place] = run.complete_tensors
        progress(ExportProgress(done, total, run.tensor.name))
        if time.monotonic() - saved >= SAVE_EVERY:
            save()
            saved = time.monotonic()

    with ThreadPoolExecutor(threads) as pool:
        try:
            for place, work in enumerate(works):
                for run in work.runs(run_elements):
                    pending.append((place, run, pool.submit(_write_run, work.export.source, run)))
                    if len(pending) > 2 * threads:  # enough to keep all threads busy, few enough to bound memory
                        collect_oldest()
            while pending:
                collect_oldest()
        except BaseException as error:
            for _, _, future in pending:
                future.cancel()
            if not isinstance(error, InputError):
                save()
            raise
