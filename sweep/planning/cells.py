"""The pieces of work that a sweep is made of, each named by a hash of all that its result depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweep.planning.inputs import Text
from sweep.planning.tasks import Task
from sweep.planning.variant import Variant

# Raised when a measurement's procedure changes, so that old results are not taken for new ones.
PROCEDURES = {"export": 1, "imatrix": 3, "quantize": 1, "speed": 2, "text": 2, "task": 2}


@dataclass(frozen=True)
class Cell:
    """One piece of work. `kind` says what is done: export, imatrix, quantize (to int8), speed, text (perplexity and
    divergence) or task.

    `params` is all that the worker needs, paths included; `makes` is the file it leaves; `needs` are keys of cells
    whose files it reads. `alike` is the key of the same task without a bound on answers: where it turns out to generate
    none, the two are one measurement.
    """

    key: str
    variant: str
    kind: str
    name: str
    params: dict[str, Any]
    makes: str | None = None
    needs: tuple[str, ...] = ()
    alike: str | None = None

    @property
    def label(self) -> str:
        return f"{self.variant}/{self.name}"


@dataclass(frozen=True)
class Baseline:
    """What a text cell is compared with: its identity, its file, and the cell that makes that, if one does."""

    identity: str
    file: str | None
    needs: tuple[str, ...] = ()

    @classmethod
    def made_by(cls, cell: Cell) -> Baseline:
        """The distributions that this text cell writes."""
        return cls(cell.key, cell.makes, (cell.key,))


@dataclass(frozen=True)
class Asked:
    """What every variant of a sweep is measured by, and the folder of what is made.

    `alone`: nothing will be compared with the reference, so its distributions are not written down.
    """

    text: Text | None
    tasks: tuple[Task, ...]
    artefacts: Path
    alone: bool = False


def measurements(
    variant: Variant,
    asked: Asked,
    base: dict[str, Any],
    timed: dict[str, Any],
    common: dict[str, Any],
    needs: tuple[str, ...],
    baseline: Baseline | None,
) -> list[Cell]:
    """Speed, text and tasks of a variant. `base` is what all of them depend on and `timed` what speed does beside;
    `common` are the parameters of each."""
    cells = [cell_of(variant, "speed", "speed", base | timed, common, needs)]
    if asked.text is not None:
        cells.append(_text_cell(variant, asked, base | {"text": asked.text.identity}, common, needs, baseline))
    for task in asked.tasks:
        params = common | {"task": task.to_json()}
        cell = cell_of(variant, "task", task.name, base | {"task": task.identity}, params, needs)
        if task.options.max_gen_toks is not None:
            free = replace(task, options=replace(task.options, max_gen_toks=None))
            alike = cell_of(variant, "task", task.name, base | {"task": free.identity}, params, needs).key
            cell = replace(cell, alike=alike)
        cells.append(cell)
    return cells


def _text_cell(
    variant: Variant,
    asked: Asked,
    base: dict[str, Any],
    common: dict[str, Any],
    needs: tuple[str, ...],
    baseline: Baseline | None,
) -> Cell:
    """Perplexity and the divergence from `baseline`; without one, its own distributions are written for the others."""
    assert asked.text is not None
    logits = asked.artefacts / f"reference-{content_hash(base)[:16]}.logprobs"
    reference = None if baseline is None else baseline.identity
    identity = base | {"reference": reference} | ({"alone": True} if asked.alone else {})
    makes = str(logits) if baseline is None and not asked.alone else None
    params = common | {
        "text": str(asked.text.file),
        "reference": None if baseline is None else baseline.file,
        "writes_reference": makes,
    }
    own_needs = needs if baseline is None else (*needs, *baseline.needs)
    return cell_of(variant, "text", "text", identity, params, own_needs, makes)


def cell_of(
    variant: Variant,
    kind: str,
    name: str,
    identity: dict[str, Any],
    params: dict[str, Any],
    needs: tuple[str, ...] = (),
    makes: str | None = None,
) -> Cell:
    """A cell whose key is the hash of its `identity`, and of the procedure of its kind."""
    key = content_hash({"kind": kind, "procedure": PROCEDURES[kind], **identity})
    return Cell(key, variant.name, kind, name, params, makes, needs)


def content_hash(value: Any) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
