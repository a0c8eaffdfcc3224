"""`sweep convert`: writes GGUF files and checkpoints. `prepare` makes the plan, `write` writes the files, and then
`sweep.commands.convert_checkpoints` writes the checkpoints.

llama.cpp's dry run can end its process on an unknown model, so a worker does it first. The files are written in this
process, so that an interrupt leaves nothing behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil

import presets
from converters.atomic import exists_already
from converters.catalogue import FileSize, sizes
from converters.errors import InputError
from converters.export import Export, ExportProgress, export, export_all
from converters.gguf_source import GGUFSource
from converters.imatrix import ImportanceMatrix, uniform_importance
from converters.plan import FilePlan, Importance, part_paths, plan_export, projector_name
from converters.projector_source import ProjectorSource
from converters.recipes import QuantRecipe, projector_recipes, recipe, recipes, reject_missing_imatrix, with_own_types
from converters.resolver import Need, find_model, open_source
from converters.source import Source
from sweep import devices
from sweep.artefact import Artefact
from sweep.commands.convert_checkpoints import CheckpointPlan, chosen_text, plan_checkpoints, require_written
from sweep.commands.convert_request import ConvertRequest
from sweep.execution.local import LocalHost
from sweep.jobs.imatrix import ImatrixJob
from sweep.jobs.model import engine_versions
from sweep.jobs.settings import Settings
from sweep.jobs.sizes import ExportCheckJob
from sweep.methods.registry import parse_list
from sweep.planning.imatrix import AUTO, ImatrixSource, checked, find_imatrix
from sweep.planning.input_checks import require_collectable
from sweep.planning.texts import text_only_warning
from sweep.variant_name import split_cache, split_projector


@dataclass(frozen=True)
class PlannedFile:
    """A file to be written: the paths of its parts, and the size of all parts together."""

    paths: tuple[Path, ...]
    size: FileSize

    def to_json(self) -> dict[str, Any]:
        """The file for JSON. `path` is the first part: llama.cpp finds the other parts by it."""
        return {**asdict(self.size), "path": str(self.paths[0]), "paths": [str(path) for path in self.paths]}


@dataclass(frozen=True)
class Conversion:
    """A plan with what it was made from. `files` are GGUF files of the text model, `projectors` those of the vision
    tower, which is `tower`."""

    name: str
    source: Source
    request: ConvertRequest
    imatrix: ImatrixSource | None
    files: tuple[PlannedFile, ...]
    checkpoints: CheckpointPlan
    tower: ProjectorSource | None = None
    projectors: tuple[PlannedFile, ...] = ()

    @property
    def mtp_bytes(self) -> int:
        return self.files[0].size.mtp_bytes if self.files else 0


def prepare(request: ConvertRequest, say: Callable[[str], None]) -> Conversion:
    """Find the model and plan every file and checkpoint. Nothing is written. Raises InputError for any bad input."""
    variants = parse_list(request.variants)
    for variant in variants:
        plain, cache = split_cache(variant.name)
        if cache is not None:
            raise InputError(f"{variant.name}: a file has no KV cache, which exists while it runs; write --to {plain}")
        if variant.names_projector:
            base, projector = split_projector(variant.name)
            raise InputError(
                f"{variant.name}: projector files have an option of their own; write --to {base} --mmproj {projector}"
            )
    if not variants and not request.mmproj:
        raise InputError("--to names no quant; give one or more, such as Q4_K_M,Q2_K_XL")
    types = [one.name for one in projector_recipes(request.mmproj)]
    exported = [variant.exported_quant for variant in variants if variant.exported_quant is not None]
    chosen = recipes([with_own_types(quant, request.tensor_types) for quant in exported])
    _require_different_names(chosen)
    others = [variant for variant in variants if variant.exported_quant is None]
    require_written(others, request.dequantized)
    request.require_used(files=bool(chosen), checkpoints=bool(others))
    text = chosen_text(request, others)
    collects = request.imatrix == AUTO or not any(variant.accepts_calibration for variant in others)
    imatrix = find_imatrix(
        request.imatrix,
        request.calibration if collects else None,
        presets.builtin_models().get(request.model),
        request.parse_special,
    )
    if imatrix is None and not request.dry_run:
        reject_missing_imatrix(chosen)
    need = Need.PLAN if request.dry_run else Need.CHECKPOINT if others else Need.WEIGHTS
    found = find_model(request.model, need, say)
    name, path = found.name, found.path
    quants = [one.name for one in chosen]
    source = _opened(request, name, path, need, quants, imatrix)
    tower = ProjectorSource(source) if types else None
    if request.repair and isinstance(source, GGUFSource):
        for line in _repair_notes(source):
            say(f"{source.path.name}: {line}")
    if imatrix is not None:
        imatrix = checked(imatrix, source, say)
    notes = () if text is None else (text.note, text_only_warning(text, path))
    for note in notes:
        if note is not None and (imatrix is None or note not in imatrix.messages):
            say(note)
    importance = None if imatrix is None else _expected_importance(source, imatrix, request.out)
    planned = sizes(source, quants, importance, request.split_max_bytes) if quants else {}
    files = (
        PlannedFile(part_paths(_target(request, name, quant), size.parts), size) for quant, size in planned.items()
    )
    projectors = (
        PlannedFile((request.out / projector_name(name, quant),), size)
        for quant, size in (sizes(tower, types) if tower is not None else {}).items()
    )
    checkpoints = plan_checkpoints(request, others, text, name, path, source)
    conversion = Conversion(name, source, request, imatrix, tuple(files), checkpoints, tower, tuple(projectors))
    if not request.dry_run and not request.replace:
        _require_replaceable(conversion, importance)
    return conversion


def _require_different_names(chosen: Sequence[QuantRecipe]) -> None:
    for one, other in combinations(chosen, 2):
        if one.title == other.title:
            raise InputError(f"{one.name} and {other.name}: both files would be called {one.title}; rename one mix")


def _opened(
    request: ConvertRequest, name: str, path: Path, need: Need, quants: Sequence[str], imatrix: ImatrixSource | None
) -> Source:
    """The model as a source. If it is exported, llama.cpp checks it, and the matrix's text, in a worker."""
    if not quants and not request.mmproj:
        return open_source(str(path), name, need=need)
    check = ExportCheckJob(
        str(path), name, tuple(quants), imatrix is not None, mmproj=request.mmproj, **request.options
    )
    with ThreadPoolExecutor(1) as pool, LocalHost() as host:  # the vocabulary is read while the worker plans
        opened = pool.submit(_read, lambda: open_source(str(path), name, need=need, **request.options), bool(quants))
        host.run_job(check)
        source = opened.result()
        if imatrix is not None and imatrix.text is not None and not request.dry_run:
            origin = Artefact(str(path))
            require_collectable(origin, name, imatrix.text, imatrix.form, request.pre_tokenizer, host.run_job)
    return source


def _require_replaceable(conversion: Conversion, importance: Importance | None) -> None:
    """Raises InputError if a file would be replaced that does not begin as the new one does."""
    limit = conversion.request.split_max_bytes
    _require_own(conversion.files, conversion.source, lambda quants, of: plan_export(of, quants, importance, limit))
    if conversion.tower is not None:
        _require_own(conversion.projectors, conversion.tower, lambda quants, of: plan_export(of, quants))


def _require_own(
    files: Sequence[PlannedFile], source: Source, plan: Callable[[Sequence[str], Source], dict[str, FilePlan]]
) -> None:
    existing = [file for file in files if any(path.exists() for path in file.paths)]
    plans = plan([file.size.quant for file in existing], source) if existing else {}
    for file in existing:
        for path, part in zip(file.paths, plans[file.size.quant].parts, strict=True):
            is_source = path.resolve() == source.path.resolve()  # which `export` rejects
            if path.exists() and not is_source and not part.is_start_of(path):
                raise InputError(exists_already(path))


def _repair_notes(source: GGUFSource) -> list[str]:
    if not source.repairs:
        return ["has none of the faults that --repair knows"]
    return [f"{repair.fault}; {repair.repair}" for repair in source.repairs]


def _read(open_model: Callable[[], Source], vocabulary: bool) -> Source:
    source = open_model()
    if vocabulary:
        len(source.metadata)  # reads the vocabulary, which takes long, and keeps it
    return source


def _expected_importance(source: Source, imatrix: ImatrixSource, out: Path) -> Importance:
    """The importance that files will be made with. If it is not collected yet, values that need the same space."""
    file = imatrix.file or _collected(source, imatrix, out)
    if file is not None:
        return ImportanceMatrix.read(file).importance(file.name)
    assert imatrix.text is not None
    return uniform_importance(source, _imatrix_name(source.name), imatrix.text.name)


def _target(request: ConvertRequest, name: str, quant: str) -> Path:
    """The path of a file if it is written in one part."""
    return request.out / f"{name}-{recipe(quant).title}.gguf"


def write(conversion: Conversion, say: Callable[[str], None], progress: Callable[[ExportProgress], None]) -> None:
    """Write all GGUF files, in one pass over the weights. An importance matrix is collected first if the request says
    so. The directory is created."""
    request = conversion.request
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{request.out}: the directory cannot be created: {error.strerror}") from error
    imatrix = conversion.imatrix
    matrix = None if imatrix is None else imatrix.file or _collect(conversion, imatrix, say, progress)
    exports = []
    if conversion.files:
        importance = None if matrix is None else ImportanceMatrix.read(matrix).importance(matrix.name)
        targets = {file.size.quant: _target(request, conversion.name, file.size.quant) for file in conversion.files}
        exports.append(Export(conversion.source, targets, importance, request.split_max_bytes))
    if conversion.tower is not None:
        targets = {file.size.quant: file.paths[0] for file in conversion.projectors}
        exports.append(Export(conversion.tower, targets))
    export_all(exports, progress, memory_budget=request.memory_budget)


def _origin(source: Source, imatrix: ImatrixSource) -> str:
    """What a matrix is collected from: the model and the text."""
    return f"{source.fingerprint} {imatrix.identity}"


def _collected(source: Source, imatrix: ImatrixSource, out: Path) -> Path | None:
    """The matrix of this model and text that an earlier run left in `out`."""
    file = out / _imatrix_name(source.name)
    known = file.is_file() and ImportanceMatrix.read(file).origin == _origin(source, imatrix)
    return file if known else None


def _imatrix_name(name: str) -> str:
    return f"{name}.imatrix.gguf"


def _say_messages(name: str, matrix: ImportanceMatrix, say: Callable[[str], None]) -> None:
    for line in matrix.coverage_notes:
        say(f"{name}: {line}")


def _collect(
    conversion: Conversion,
    imatrix: ImatrixSource,
    say: Callable[[str], None],
    progress: Callable[[ExportProgress], None],
) -> Path:
    """Collect the importance matrix into --out. The model reads the text as BF16, or as Q8_0 if the memory is too small
    for BF16."""
    request, source, text = conversion.request, conversion.source, imatrix.text
    assert text is not None  # without a file there is a text
    output = request.out / _imatrix_name(conversion.name)
    if (known := _collected(source, imatrix, request.out)) is not None:
        _say_messages(f"{known.name} of an earlier run", ImportanceMatrix.read(known), say)
        return known
    weights = 2 * sum(tensor.elements for tensor in source.tensors)
    quant = "BF16" if weights < psutil.virtual_memory().available else "Q8_0"
    placement = devices.placement()
    with tempfile.TemporaryDirectory(prefix=f".{conversion.name}-", dir=request.out) as directory:
        file = Path(directory) / f"{conversion.name}-{quant}.gguf"
        export(source, {quant: file}, progress, memory_budget=request.memory_budget)
        job = ImatrixJob(
            file=Artefact.of(file),
            text=Artefact.of(text),
            matrix=Artefact.of(output),
            content=source.fingerprint,
            text_identity=imatrix.identity,
            origin=_origin(source, imatrix),
            engine=engine_versions("gguf"),
            settings=Settings(gpu_layers=placement.gpu_layers),
            form=imatrix.form,
        )
        size = text.stat().st_size

        def reading(done: int, total: int, _part: str) -> None:
            progress(ExportProgress(size * done // total, size, f"reading {text.name}"))

        with LocalHost() as host:
            host.run_job(job, reading)
    _say_messages(output.name, ImportanceMatrix.read(output), say)
    return output
