"""A sweep before it runs: model x variants x measurements = cells, each named by a hash of all it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from converters.errors import InputError
from converters.gguf_source import gguf_fingerprint
from converters.recipes import recipe
from sweep.fit.fit_report import Misfit
from sweep.planning.baseline import ReferenceFile
from sweep.planning.calibration import Calibration
from sweep.planning.cells import PROCEDURES, Asked, Baseline, Cell, cell_of, content_hash, measurements
from sweep.planning.inputs import Text
from sweep.planning.model import Model
from sweep.planning.settings import Settings
from sweep.planning.tasks import Task
from sweep.planning.torch_cells import TorchSide, torch_cells
from sweep.planning.variant import TORCH_FLOAT, Variant, kind_of
from sweep.workspace import Workspace

_NONE: Mapping[str, Misfit] = MappingProxyType({})


@dataclass(frozen=True)
class Plan:
    """A run: its id, what it is about, and its cells in order.

    `reference` is a variant or, where that was a file, its name; `made_of` then the variant that the file was made of,
    where that is known and among them.
    """

    run: str
    model: str
    preset: str
    reference: str
    variants: tuple[str, ...]
    settings: Settings
    about: dict[str, Any]
    cells: tuple[Cell, ...] = field(repr=False)
    procedures: dict[str, int] = field(default_factory=lambda: dict(PROCEDURES))
    made_of: str | None = None

    @property
    def is_current(self) -> bool:
        """Whether its results are kept as this version keeps them."""
        return all(self.procedures.get(cell.kind) == PROCEDURES[cell.kind] for cell in self.cells)

    def reference_of(self, variant: str) -> str:
        """What a variant is compared with: those of torch with torch:BF16, where that is among the variants."""
        return TORCH_FLOAT if kind_of(variant) != "gguf" and TORCH_FLOAT in self.variants else self.reference

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Plan:
        row = dict(row)
        known = {entry.name for entry in fields(Settings)}  # another version may have others
        stated = {name: value for name, value in row["settings"].items() if name in known}
        row["settings"] = Settings(**{**stated, "tensor_split": tuple(stated.get("tensor_split", ()))})
        row.setdefault("procedures", {})
        row["variants"] = tuple(row["variants"])
        row["cells"] = tuple(Cell(**{**cell, "needs": tuple(cell["needs"])}) for cell in row["cells"])
        return cls(**row)


def make_plan(
    workspace: Workspace,
    model: Model,
    variants: list[Variant],
    reference: str,
    text: Text | None,
    tasks: tuple[Task, ...],
    settings: Settings,
    preset: str,
    calibration: Calibration | None = None,
    reference_file: ReferenceFile | None = None,
    reference_layers: int | None = None,
    alone: bool = False,
    base_file: Path | None = None,
    skipped: Mapping[str, Misfit] = _NONE,
    torch: TorchSide | None = None,
) -> Plan:
    """The cells of a sweep, the reference's first, then GGUF's, then torch's. `reference_layers`: of the reference, how
    many go to the GPU.

    `text` None measures no perplexity. `alone`: nothing will be compared with the reference, so its distributions are
    not written down but to `base_file`, as llama.cpp does. `skipped` variants have no cells. `torch` is needed where
    there are variants of torch. Raises InputError where the reference is neither a file nor among the variants.
    """
    ordered = sorted(variants, key=lambda entry: (entry.name != reference, entry.kind != "gguf"))
    if reference_file is None and (not ordered or ordered[0].name != reference):
        raise InputError(f"the reference {reference} is not among the variants; add it with --variants")
    if reference_file is not None and calibration is not None and calibration.file is None:
        raise InputError("--imatrix auto is collected by the reference, and a file cannot read; give --imatrix FILE")
    artefacts = workspace.artefacts(model.fingerprint)
    asked = Asked(text, tasks, artefacts, alone)
    cells: list[Cell] = []
    # Distributions of two engines differ by more than a good quant does: each side has a baseline of its own.
    baselines: dict[bool, Baseline] = {}
    if reference_file is not None:
        baselines[False] = Baseline(reference_file.identity, str(reference_file.path))
    importance: _Importance | None = None
    for index, variant in enumerate(variant for variant in ordered if variant.name not in skipped):
        if index == 1 and calibration is not None:  # the reference is made; others are made by what it finds
            importance = _importance(calibration, model, ordered[0], cells, settings, artefacts)
            cells += importance.cells
        placed = settings
        if reference_layers is not None and variant.name == reference:
            placed = replace(settings, gpu_layers=reference_layers)
        baseline = baselines.get(variant.is_torch)
        if variant.is_torch:
            assert torch is not None
            own = torch_cells(variant, model, asked, settings, torch, baseline)
        else:
            own = _gguf_cells(variant, model, asked, placed, baseline, importance)
        if base_file is not None:
            own = [_writing(cell, base_file) if cell.kind == "text" else cell for cell in own]
        made = {cell.key for cell in cells if cell.kind == "quantize"}  # int8: and fq: of one recipe share a checkpoint
        cells += [cell for cell in own if cell.key not in made]
        first = next((cell for cell in own if cell.kind == "text"), None)
        if baseline is None and first is not None:
            baselines[variant.is_torch] = Baseline.made_by(first)
    left_out = {name: asdict(misfit) for name, misfit in skipped.items()}
    content = {"cells": [cell.key for cell in cells], "model": model.name, "preset": preset}
    identity = content_hash(content | ({"skipped": left_out} if left_out else {}))
    return Plan(
        run=f"{model.name}-{preset}-{identity[:6]}",
        model=model.name,
        preset=preset,
        reference=reference,
        variants=tuple(variant.name for variant in variants),
        settings=settings,
        about={
            "model": str(model.path) if model.builtin is None else f"{model.name} (built in)",
            "text": None if text is None else text.name,
            "tasks": {task.name: task.options.limit for task in tasks},
            "task_settings": {task.name: task.options.words for task in tasks},
            "imatrix": None if calibration is None else calibration.name,
            "imatrix_told": [] if calibration is None else calibration.told,
            "engine": _engine(),
            "skipped": left_out,
        }
        | ({} if torch is None else {"torch": torch.about}),
        cells=tuple(cells),
        made_of=None if reference_file is None else _measured_from(reference_file.model, cells),
    )


def _measured_from(file_name: str | None, cells: list[Cell]) -> str | None:
    """The variant whose file has this name."""
    speeds = (cell for cell in cells if cell.kind == "speed")
    return next((cell.variant for cell in speeds if Path(cell.params["file"]).name == file_name), None)


def _gguf_cells(
    variant: Variant,
    model: Model,
    asked: Asked,
    settings: Settings,
    baseline: Baseline | None,
    importance: _Importance | None,
) -> list[Cell]:
    cells: list[Cell] = []
    if variant.quant is not None:
        weighed = importance if importance is not None and not recipe(variant.quant).is_float else None
        mark = "" if weighed is None else f"-{weighed.identity[:8]}"
        file = asked.artefacts / f"{model.name}-{variant.quant}{mark}.gguf"
        made: dict[str, Any] = {
            "model": model.fingerprint,
            "name": model.name,
            "quant": recipe(variant.quant).label,
            "engine": _engine(),
        }
        params: dict[str, Any] = {
            "source": str(model.path),
            "name": model.name,
            "quant": variant.quant,
            "file": str(file),
        }
        if weighed is not None:
            made["imatrix"] = weighed.identity
            params["imatrix"] = str(weighed.file)
        own_needs = () if weighed is None else tuple(cell.key for cell in weighed.cells)
        cells.append(cell_of(variant, "export", "export", made, params, own_needs, makes=str(file)))
        content = cells[0].key
    else:
        file = variant.file or Path(variant.name)  # of a dry run, which fetches nothing
        content = variant.name if variant.file is None else gguf_fingerprint(file)
    needs = tuple(cell.key for cell in cells if cell.kind == "export")
    base: dict[str, Any] = {"content": content, "engine": _engine()} | _that_matter(settings, "text")
    common = {"file": str(file), "settings": asdict(settings)}
    return cells + measurements(variant, asked, base, _that_matter(settings, "speed"), common, needs, baseline)


def _writing(cell: Cell, base_file: Path) -> Cell:
    """A text cell that leaves a base file of llama.cpp's as well. What it measures is the same, and so is its key."""
    return replace(cell, params=cell.params | {"writes_base": str(base_file)})


@dataclass(frozen=True)
class _Importance:
    """The importance matrix of a sweep: its file, a hash of what it holds, and the cell that makes it, if one does."""

    file: Path
    identity: str
    cells: tuple[Cell, ...] = ()


def _importance(
    calibration: Calibration, model: Model, reference: Variant, before: list[Cell], settings: Settings, artefacts: Path
) -> _Importance:
    """A file as it is, or a cell in which the reference reads the text."""
    if calibration.file is not None:
        return _Importance(calibration.file, calibration.identity)
    exports = [cell for cell in before if cell.kind == "export"]
    source = exports[0].makes if exports else str(reference.file)
    made = {
        "content": exports[0].key if exports else before[0].key,
        "text": calibration.identity,
        "engine": _engine(),
        "gpu_layers": settings.gpu_layers,
    }
    identity = content_hash(made)
    file = artefacts / f"{model.name}-{identity[:8]}.imatrix.gguf"
    params = {
        "file": source,
        "text": str(calibration.text),
        "makes": str(file),
        "origin": identity,
        "settings": asdict(settings),
    }
    needs = tuple(cell.key for cell in exports)
    return _Importance(file, identity, (cell_of(reference, "imatrix", "imatrix", made, params, needs, str(file)),))


def _that_matter(settings: Settings, kind: str) -> dict[str, Any]:
    """The settings that move a result: how many threads compute it and which context it is foreseen for move speed
    and memory alone."""
    ignored = () if kind == "speed" else ("threads", "ctx")
    return {name: value for name, value in asdict(settings).items() if name not in ignored}


def _engine() -> str:
    return f"llama-cpp-python {version('llama-cpp-python')}, lm-eval {version('lm-eval')}"
