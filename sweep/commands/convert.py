"""From a request to GGUF files: what `sweep convert` calls. `prepare` plans, `write` does the work.

llama.cpp's dry run on a stranger's model can end the process, so the plan is made in a worker; what comes after it are
single rows to quantize, done here, so that an interrupt leaves nothing behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

import presets
from converters.catalogue import FileSize, sizes
from converters.errors import InputError
from converters.export import ExportProgress, export
from converters.imatrix import ImportanceMatrix, even_importance
from converters.plan import Importance, part_paths
from converters.recipes import recipes, refuse_without_imatrix
from converters.resolver import Need, find_model, open_planned, open_source
from converters.source import Source
from sweep import devices
from sweep.artefact import Artefact
from sweep.execution.local import LocalHost
from sweep.jobs.imatrix import ImatrixJob
from sweep.jobs.model import engine_of
from sweep.jobs.settings import Settings
from sweep.jobs.sizes import VetJob
from sweep.planning.calibration import Calibration, calibration, tell


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asked for. `imatrix` is a file's path or "auto", `calibration` the text that the latter reads.

    `split_max_bytes` bounds the tensors of each part of a file, `memory_budget` the resident bytes of the export.
    """

    model: str
    quants: tuple[str, ...]
    out: Path
    mtp: bool = True
    pre_tokenizer: str | None = None
    requantize: bool = False
    imatrix: str | None = None
    calibration: Path | None = None
    split_max_bytes: int | None = None
    memory_budget: int | None = None
    dry_run: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What `open_source` is told beside the path and the name."""
        return {"mtp": self.mtp, "pre_tokenizer": self.pre_tokenizer, "requantize": self.requantize}


@dataclass(frozen=True)
class File:
    """A file to be written: its paths, or those of its parts, and what `FileSize` tells of all of them together."""

    paths: tuple[Path, ...]
    size: FileSize

    def to_json(self) -> dict[str, Any]:
        """With `path`, what to give to llama.cpp: it finds the other parts by the first."""
        return {**asdict(self.size), "path": str(self.paths[0]), "paths": [str(path) for path in self.paths]}


@dataclass(frozen=True)
class Conversion:
    """A plan with what it was made from."""

    name: str
    source: Source
    request: ConvertRequest
    calibration: Calibration | None
    files: tuple[File, ...]

    @property
    def mtp_bytes(self) -> int:
        return self.files[0].size.mtp_bytes


def prepare(request: ConvertRequest, say: Callable[[str], None]) -> Conversion:
    """Find the model and plan every file. Nothing is written. Raises InputError for any bad input."""
    chosen = recipes(request.quants)
    if not chosen:
        raise InputError("--to names no quant; give one or more, such as Q4_K_M,Q2_K_XL")
    given = calibration(request.imatrix, request.calibration, presets.builtin_models().get(request.model))
    if given is None and not request.dry_run:
        refuse_without_imatrix(chosen)
    if given is not None:
        tell(given, say)
    found = find_model(request.model, Need.PLAN if request.dry_run else Need.WEIGHTS, say)
    name, path = found.name, found.path
    quants = [recipe.name for recipe in chosen]
    vetted = VetJob(str(path), name, tuple(quants), given is not None, **request.options)
    opening = open_planned if request.dry_run else open_source
    with ThreadPoolExecutor(1) as pool:  # the vocabulary is read while another process plans
        opened = pool.submit(_read, lambda: opening(str(path), name, **request.options))
        LocalHost().ask(vetted)
        source = opened.result()
    importance = None if given is None else _expected_importance(source, given)
    planned = sizes(source, quants, importance, request.split_max_bytes)
    files = (File(part_paths(_target(request, name, quant), size.parts), size) for quant, size in planned.items())
    return Conversion(name, source, request, given, tuple(files))


def _read(opening: Callable[[], Source]) -> Source:
    source = opening()
    len(source.metadata)  # takes long for the first time
    return source


def _expected_importance(source: Source, given: Calibration) -> Importance:
    """The importance that files will be made with, or what takes as much room in them where it is yet to be found."""
    if given.file is not None:
        return ImportanceMatrix.read(given.file).importance(given.file.name)
    assert given.text is not None
    return even_importance(source, _imatrix_name(source.name), given.text.name)


def _target(request: ConvertRequest, name: str, quant: str) -> Path:
    """What a file is called, or would be if it came in one part."""
    return request.out / f"{name}-{quant}.gguf"


def write(conversion: Conversion, say: Callable[[str], None], progress: Callable[[ExportProgress], None]) -> None:
    """Write all files, an importance matrix to be collected first. The directory is made where it is missing."""
    request = conversion.request
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{request.out}: cannot be made: {error.strerror}") from error
    given = conversion.calibration
    matrix = None if given is None else given.file or _collect(conversion, given, say, progress)
    export(
        conversion.source,
        {file.size.quant: _target(request, conversion.name, file.size.quant) for file in conversion.files},
        progress,
        importance=None if matrix is None else ImportanceMatrix.read(matrix).importance(matrix.name),
        max_part_bytes=request.split_max_bytes,
        memory_budget=request.memory_budget,
    )


def _imatrix_name(name: str) -> str:
    return f"{name}.imatrix.gguf"


def _tell(name: str, matrix: ImportanceMatrix, say: Callable[[str], None]) -> None:
    for line in matrix.told:
        say(f"{name}: {line}")


def _collect(
    conversion: Conversion, given: Calibration, say: Callable[[str], None], progress: Callable[[ExportProgress], None]
) -> Path:
    """The model reads the text, as BF16 or, where memory is too small for that, Q8_0; what it finds stays in --out."""
    request, source, text = conversion.request, conversion.source, given.text
    assert text is not None  # or a file were given
    makes = request.out / _imatrix_name(conversion.name)
    origin = f"{source.fingerprint} {given.identity}"
    if makes.is_file() and (known := ImportanceMatrix.read(makes)).origin == origin:
        _tell(f"{makes.name} of an earlier run", known, say)
        return makes
    weights = 2 * sum(tensor.elements for tensor in source.tensors)
    quant = "BF16" if weights < psutil.virtual_memory().available else "Q8_0"
    placement = devices.placement()
    with tempfile.TemporaryDirectory(prefix=f".{conversion.name}-", dir=request.out) as directory:
        file = Path(directory) / f"{conversion.name}-{quant}.gguf"
        export(source, {quant: file}, progress, memory_budget=request.memory_budget)
        job = ImatrixJob(
            file=Artefact.of(file),
            text=Artefact.of(text),
            matrix=Artefact.of(makes),
            content=source.fingerprint,
            text_identity=given.identity,
            origin=origin,
            engine=engine_of("gguf"),
            settings=Settings(gpu_layers=placement.gpu_layers),
        )
        size = text.stat().st_size

        def reading(done: int, total: int, _part: str) -> None:
            progress(ExportProgress(size * done // total, size, f"reading {text.name}"))

        LocalHost().ask(job, reading)
    _tell(makes.name, ImportanceMatrix.read(makes), say)
    return makes
