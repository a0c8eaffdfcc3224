"""A sweep before it runs: model x variants x measurements = cells, each named by a hash of all it depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from converters.errors import InputError
from converters.gguf_source import gguf_fingerprint
from sweep.inputs import Task, Text
from sweep.model import Model
from sweep.variant import Variant
from sweep.workspace import Workspace

# Raised when a measurement's procedure changes, so that old results are not taken for new ones.
PROCEDURES = {"export": 1, "speed": 1, "text": 1, "task": 1}


@dataclass(frozen=True)
class Settings:
    """How everything is measured; all of it is part of each cell's hash and stands in the report.

    `window` is perplexity's context, `ctx` the context that memory is stated for, `batch` and `ubatch` llama.cpp's
    logical and physical batch.
    """

    window: int = 512
    ctx: int = 8192
    batch: int = 2048
    ubatch: int = 512
    kv_type: str = "f16"
    threads: int = 1
    device: str = "cpu"
    gpu_layers: int = 0


@dataclass(frozen=True)
class Cell:
    """One piece of work. `kind` says what is done: export, speed, text (perplexity and divergence) or task.

    `params` is all that the worker needs, paths included; `makes` is the file it leaves; `needs` are keys of cells
    whose files it reads.
    """

    key: str
    variant: str
    kind: str
    name: str
    params: dict[str, Any]
    makes: str | None = None
    needs: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.variant}/{self.name}"


@dataclass(frozen=True)
class Plan:
    """A run: its id, what it is about, and its cells in order."""

    run: str
    model: str
    preset: str
    reference: str
    variants: tuple[str, ...]
    settings: Settings
    about: dict[str, Any]
    cells: tuple[Cell, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Plan:
        row = dict(row)
        row["settings"] = Settings(**row["settings"])
        row["variants"] = tuple(row["variants"])
        row["cells"] = tuple(Cell(**{**cell, "needs": tuple(cell["needs"])}) for cell in row["cells"])
        return cls(**row)


def make_plan(
    workspace: Workspace,
    model: Model,
    variants: list[Variant],
    reference: str,
    text: Text,
    tasks: tuple[Task, ...],
    settings: Settings,
    preset: str,
) -> Plan:
    """The cells of a sweep, the reference's first. Raises InputError where the reference is not among the variants."""
    ordered = sorted(variants, key=lambda variant: variant.name != reference)
    if not ordered or ordered[0].name != reference:
        raise InputError(f"the reference {reference} is not among the variants; add it with --variants")
    artefacts = workspace.artefacts(model.fingerprint)
    cells: list[Cell] = []
    baseline: Cell | None = None
    for variant in ordered:
        own = _cells(variant, model, text, tasks, settings, artefacts, baseline)
        cells += own
        baseline = baseline or next(cell for cell in own if cell.kind == "text")
    identity = _hash({"cells": [cell.key for cell in cells], "model": model.name, "preset": preset})
    return Plan(
        run=f"{model.name}-{preset}-{identity[:6]}",
        model=model.name,
        preset=preset,
        reference=reference,
        variants=tuple(variant.name for variant in variants),
        settings=settings,
        about={
            "model": str(model.path) if model.builtin is None else f"{model.name} (built in)",
            "text": text.name,
            "tasks": {task.name: task.limit for task in tasks},
            "engine": _engine(),
        },
        cells=tuple(cells),
    )


def _cells(
    variant: Variant,
    model: Model,
    text: Text,
    tasks: tuple[Task, ...],
    settings: Settings,
    artefacts: Path,
    baseline: Cell | None,
) -> list[Cell]:
    cells: list[Cell] = []
    if variant.quant is not None:
        file = artefacts / f"{model.name}-{variant.quant}.gguf"
        made: dict[str, Any] = {
            "model": model.fingerprint,
            "name": model.name,
            "quant": variant.quant,
            "engine": _engine(),
        }
        params: dict[str, Any] = {
            "source": str(model.path),
            "name": model.name,
            "quant": variant.quant,
            "file": str(file),
        }
        cells.append(_cell(variant, "export", "export", made, params, makes=str(file)))
        content = cells[0].key
    else:
        assert variant.file is not None  # a variant has a quant or a file
        file = variant.file
        content = gguf_fingerprint(file)
    needs = tuple(cell.key for cell in cells)
    base: dict[str, Any] = {"content": content, "engine": _engine()} | _that_matter(settings, "text")
    common = {"file": str(file), "settings": asdict(settings)}
    timed = base | _that_matter(settings, "speed")
    cells.append(_cell(variant, "speed", "speed", timed, common, needs))
    logits = artefacts / f"reference-{_hash(base | {'text': text.identity})[:16]}.logprobs"
    reference, reference_file = (baseline.key, baseline.makes) if baseline is not None else (None, None)
    text_identity = base | {"text": text.identity, "reference": reference}
    text_params = common | {
        "text": str(text.file),
        "reference": reference_file,
        "writes_reference": str(logits) if reference_file is None else None,
    }
    makes = str(logits) if reference_file is None else None
    text_needs = needs if reference is None else (*needs, reference)
    cells.append(_cell(variant, "text", "text", text_identity, text_params, text_needs, makes))
    for task in tasks:
        params = common | {
            "task": task.name,
            "folder": None if task.folder is None else str(task.folder),
            "limit": task.limit,
        }
        cells.append(_cell(variant, "task", task.name, base | {"task": task.identity}, params, needs))
    return cells


def _cell(
    variant: Variant,
    kind: str,
    name: str,
    identity: dict[str, Any],
    params: dict[str, Any],
    needs: tuple[str, ...] = (),
    makes: str | None = None,
) -> Cell:
    key = _hash({"kind": kind, "procedure": PROCEDURES[kind], **identity})
    return Cell(key, variant.name, kind, name, params, makes, needs)


def _that_matter(settings: Settings, kind: str) -> dict[str, Any]:
    """The settings that move a result: how many threads compute it and which context it is foreseen for move speed
    and memory alone."""
    ignored = () if kind == "speed" else ("threads", "ctx")
    return {name: value for name, value in asdict(settings).items() if name not in ignored}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _engine() -> str:
    return f"llama-cpp-python {version('llama-cpp-python')}, lm-eval {version('lm-eval')}"
