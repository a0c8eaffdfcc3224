"""From a request to GGUF files: what `sweep convert` calls. `prepare` plans, `write` does the work.

llama.cpp's dry run on a stranger's model can end the process, so the plan is made in a worker; what comes after it are
single rows to quantize, done here, so that an interrupt leaves nothing behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import presets
from converters.catalogue import is_public
from converters.errors import InputError
from converters.export import Progress, export
from converters.hub import fetch, is_hub_id
from converters.imatrix import ImportanceMatrix
from converters.recipes import recipes
from converters.source import open_source
from sweep.child import Child, Failed


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    model: str
    quants: tuple[str, ...]
    out: Path
    mtp: bool = True
    pre_tokenizer: str | None = None
    requantize: bool = False
    imatrix: Path | None = None
    dry_run: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What `open_source` is told beside the path and the name."""
        return {"mtp": self.mtp, "pre_tokenizer": self.pre_tokenizer, "requantize": self.requantize}


@dataclass(frozen=True)
class File:
    """A file to be written: its size, exact but for a header whose tokenizer is unknown, and its tensors by type."""

    quant: str
    path: Path
    tensor_bytes: int
    mtp_bytes: int
    header_bytes: int
    header_exact: bool
    file_bytes: int
    bits_per_weight: float
    census: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Conversion:
    """A plan with what it was made from."""

    name: str
    source: str  # a path; for a dry run also a name of the catalogue
    request: Request
    files: tuple[File, ...]

    @property
    def mtp_bytes(self) -> int:
        return self.files[0].mtp_bytes


def prepare(request: Request, say: Callable[[str], None]) -> Conversion:
    """Find the model and plan every file. Nothing is written. Raises InputError for any bad input."""
    chosen = recipes(request.quants)
    if not chosen:
        raise InputError("--to names no quant; give one or more, such as Q4_K_M,Q2_K_XL")
    for recipe in chosen:
        if recipe.needs_imatrix and request.imatrix is None and not request.dry_run:
            raise InputError(f"{recipe.name} needs an importance matrix; give one by --imatrix FILE")
    if request.imatrix is not None:
        found, all_ = ImportanceMatrix.read(request.imatrix).coverage
        say(f"{request.imatrix.name}: {found} of {all_} matrices covered")
    name, source = _find(request, say)
    job = {
        "kind": "plan",
        "source": source,
        "name": name,
        "quants": [recipe.name for recipe in chosen],
        "options": request.options,
        "imatrix": None if request.imatrix is None else str(request.imatrix),
    }
    planned = _ask(job)
    files = tuple(File(path=request.out / f"{name}-{recipe.name}.gguf", **planned[recipe.name]) for recipe in chosen)
    return Conversion(name, source, request, files)


def write(conversion: Conversion, progress: Callable[[Progress], None]) -> None:
    """Write all files. The directory is made where it is missing."""
    request = conversion.request
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{request.out}: cannot be made: {error.strerror}") from error
    source = open_source(conversion.source, conversion.name, **request.options)
    given = request.imatrix
    importance = None if given is None else ImportanceMatrix.read(given).importance(given.name)
    export(source, {file.quant: file.path for file in conversion.files}, progress, importance=importance)


def _find(request: Request, say: Callable[[str], None]) -> tuple[str, str]:
    """The model's name and what to open. A dry run asks the catalogue before it asks the hub."""
    model = request.model
    builtin = presets.builtin_models().get(model)
    if builtin is not None:
        return builtin.name, str(builtin.directory)
    path = Path(model).expanduser()
    if path.exists():
        path = path.resolve()
        inner = path.parent if path.name == "config.json" else path
        return (inner.stem if inner.is_file() else inner.name), str(path)
    if is_public(model):
        if request.dry_run:
            return model.rpartition("/")[2], model
        if not is_hub_id(model):
            raise InputError(
                f"{model}: is known by its sizes alone (--dry-run); to convert it give its hub id or a directory"
            )
    if not is_hub_id(model):
        raise InputError(f"{model}: there is no such model; give a built-in one, a directory, a .gguf file or a hub id")
    say(f"{model} is no path here; asking the hub")
    return model.partition("@")[0].rpartition("/")[2], str(fetch(model))


def _ask(job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory, Child(Path(directory) / "plan.log") as child:
        for answer in child.submit(job):
            if isinstance(answer, Failed):
                raise InputError(answer.message)
            if isinstance(answer, dict):
                return answer
    raise AssertionError("a job ends with a result or a failure")
