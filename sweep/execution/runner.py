"""Runs a plan: what is not known yet is done in worker processes, one for all cells of a variant, each committed.

All exports go first, in one pass over the checkpoint. A worker that dies costs the cell it was at; another takes over.
A measurement that fails costs its cell, whoever is to blame; where that is the reference's text, or a reference that
cannot be used, the others lack their divergence and keep what else the text gives.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from sweep.events import Event
from sweep.execution.child import Child, Failed
from sweep.execution.control import CANCELLED, Paused, cancelling, forget, pause_is_asked
from sweep.planning.baseline import sampled_digest
from sweep.planning.cells import Cell
from sweep.planning.plan import Plan
from sweep.results.store import Item, Outcome, Store

Emit = Callable[[Event], None]


def pending(plan: Plan, store: Store) -> list[Cell]:
    """The cells to run: those not known to be done, those whose file is gone while one of them needs it, and those that
    are to leave a file with the user which is not there."""
    outcomes = store.outcomes(cell.key for cell in plan.cells)
    done = {key for key, outcome in outcomes.items() if outcome.status == "ok"} | set(_adopted(plan, store))
    wanted = {cell.key for cell in plan.cells if cell.key not in done or not _written(cell, outcomes.get(cell.key))}
    for cell in reversed(plan.cells):  # what is needed stands before what needs it
        if cell.key in wanted:
            continue
        needed = any(cell.key in other.needs for other in plan.cells if other.key in wanted)
        if needed and cell.makes is not None and not Path(cell.makes).exists():
            wanted.add(cell.key)
    return [cell for cell in plan.cells if cell.key in wanted]


def _written(cell: Cell, outcome: Outcome | None) -> bool:
    """Whether the base file that is asked for, if one is, is the one that this cell wrote."""
    path = cell.params.get("writes_base")
    if path is None or outcome is None or outcome.result is None:
        return path is None
    return Path(path).is_file() and sampled_digest(Path(path)) == outcome.result.get("base_file")


def _adopted(plan: Plan, store: Store) -> dict[str, str]:
    """The cells that are known under another key, with that key."""
    others = {cell.key: cell.alike for cell in plan.cells if cell.alike is not None}
    known = store.outcomes([*others, *others.values()])
    done = {key for key, outcome in known.items() if outcome.status == "ok"}
    return {
        key: alike
        for key, alike in others.items()
        if key not in done and alike in done and _generated_none(known[alike].result)
    }


def _generated_none(result: dict[str, Any] | None) -> bool:
    """Whether a task's result was had without generating, so that no bound on answers mattered."""
    return result is not None and result["settings"]["max_gen_toks"] is None


def run(
    plan: Plan, store: Store, directory: Path, emit: Emit, measured: Callable[[str], None] = lambda _variant: None
) -> None:
    """Do what is pending and commit each cell; `measured` is told each variant that is through.

    Raises InputError where the model cannot be exported, MissingRuntime where there is nothing to export it with.
    """
    _Run(plan, store, directory, emit, measured).go()


class _Run:
    def __init__(self, plan: Plan, store: Store, directory: Path, emit: Emit, measured: Callable[[str], None]) -> None:
        self.plan, self.store, self.directory, self.emit, self.measured = plan, store, directory, emit, measured
        self.failed: dict[str, str] = {}  # key -> message
        self.texts = {cell.key for cell in plan.cells if cell.kind == "text"}

    def go(self) -> None:
        for key, alike in _adopted(self.plan, self.store).items():
            self.store.copy(alike, key)
        todo = pending(self.plan, self.store)
        labels = [cell.label for cell in todo]
        about = {"run": self.plan.run, "cells": len(self.plan.cells), "todo": len(todo), "pending": labels}
        forget(self.directory)
        self.emit(Event("started", None, about | {"pid": os.getpid()}))
        exports = [cell for cell in todo if cell.kind == "export"]
        collects = [cell for cell in todo if cell.kind == "imatrix"]
        quantizes = [cell for cell in todo if cell.kind == "quantize"]
        measures = [cell for cell in todo if cell.kind not in ("export", "imatrix", "quantize")]
        groups = [list(cells) for _, cells in groupby(measures, lambda cell: cell.variant)]
        with ExitStack() as stack:
            workers = _Workers(self.directory, stack)
            self._export([cell for cell in exports if not cell.needs])
            if collects:
                self._measure(collects, workers, None)
            self._export([cell for cell in exports if cell.needs])
            for cell in quantizes:
                self._measure([cell], workers, None)
            for index, cells in enumerate(groups):
                upcoming = groups[index + 1][0].variant if index + 1 < len(groups) else None
                self._measure(cells, workers, upcoming)
                self.measured(cells[0].variant)

    def _export(self, cells: Sequence[Cell]) -> None:
        """All in one pass; where that kills the worker, one by one, so that the culprit alone fails, or what is
        cancelled."""
        cells = [cell for cell in cells if not self._lacks(cell)]
        if not cells:
            return
        outcome = self._export_together(cells)
        left = [cell for cell in cells if cell.key not in self.failed]
        if isinstance(outcome, Failed) and outcome.died and len(cells) > 1:
            for cell in left:
                self._look()
                single = self._export_together([cell])
                if isinstance(single, Failed) and cell.key not in self.failed:
                    self._fail(cell, single.message, 0.0)
        elif isinstance(outcome, Failed):
            for cell in left:
                self._fail(cell, outcome.message, 0.0)

    def _export_together(self, cells: Sequence[Cell]) -> Failed | None:
        started = time.monotonic()
        for cell in cells:
            self.emit(Event("cell_started", cell.label))
        first = cells[0].params
        job = {
            "kind": "export",
            "source": first["source"],
            "name": first["name"],
            "targets": {cell.params["quant"]: cell.params["file"] for cell in cells},
            "threads": self.plan.settings.threads,
            "imatrix": next((cell.params["imatrix"] for cell in cells if "imatrix" in cell.params), None),
        }
        with (
            Child(log_path(self.directory, "export")) as child,
            cancelling(self.directory, [cell.label for cell in cells], child.interrupt) as cancelled,
        ):
            for answer in child.submit(job):
                if isinstance(answer, tuple):
                    for cell in cells:
                        self._progress(cell, answer)
                elif isinstance(answer, Failed):
                    if answer.input or answer.missing:
                        raise answer.error
                    for cell in (cell for cell in cells if cell.label in cancelled):
                        self._fail(cell, CANCELLED, time.monotonic() - started)
                    return answer
                else:
                    seconds = time.monotonic() - started
                    for cell in cells:
                        self._done(cell, answer[cell.params["quant"]], seconds / len(cells))
        return None

    def _measure(self, cells: Sequence[Cell], workers: _Workers, upcoming: str | None) -> None:
        worker = workers.take(cells[0].variant)
        for cell in cells:
            self._look()
            if self._lacks(cell):
                continue
            self.emit(Event("cell_started", cell.label))
            started = time.monotonic()
            unknown = self._unknown_reference(cell)
            job = {"kind": cell.kind, **cell.params} | ({"reference": None} if unknown else {})
            with cancelling(self.directory, [cell.label], worker.interrupt) as cancelled:
                for answer in worker.submit(job):
                    seconds = time.monotonic() - started
                    if isinstance(answer, tuple):
                        self._progress(cell, answer)
                    elif isinstance(answer, Failed):
                        self._fail(cell, CANCELLED if cancelled else answer.message, seconds)
                    else:
                        self._done(cell, answer, seconds, unknown)
            if not worker.alive:
                worker = workers.start(cell.variant)
            if upcoming is not None and cell.kind != "speed":
                workers.warm(upcoming)  # not while speed is measured: starting one takes a core for seconds
        worker.kill()

    def _look(self) -> None:
        if pause_is_asked(self.directory):
            raise Paused

    def _lacks(self, cell: Cell) -> bool:
        """Whether something that the cell needs could not be made; it has failed then."""
        broken = [self.failed[key] for key in cell.needs if key in self.failed and key not in self.texts]
        if broken:
            self._fail(cell, f"needs what could not be made: {broken[0]}", 0.0)
        return bool(broken)

    def _unknown_reference(self, cell: Cell) -> str | None:
        """Why a text is measured without its divergence; None where nothing stands against it."""
        broken = [self.failed[key] for key in cell.needs if key in self.failed and key in self.texts]
        reference = self.plan.reference_of(cell.variant)
        return f"no divergence, for {reference} could not be measured: {broken[0]}" if broken else None

    def _progress(self, cell: Cell, at: tuple[int, int, str]) -> None:
        done, total, part = at
        self.emit(Event("cell_progress", cell.label, {"done": done, "total": total} | ({"part": part} if part else {})))

    def _done(self, cell: Cell, result: dict[str, Any], seconds: float, lacking: str | None = None) -> None:
        """What was measured counts even where some of it is `lacking`; the cell is to be tried again then."""
        items: list[list[Any]] = result.pop("items", [])
        lacking = result.pop("lacking", None) or lacking
        if lacking is not None:
            self._fail(cell, lacking, seconds, result)
            return
        self.store.put(cell.key, Outcome("ok", result, None, seconds), [Item(*item) for item in items])
        if cell.alike is not None and _generated_none(result):
            self.store.copy(cell.key, cell.alike)
        notes = {"notes": result["notes"]} if result.get("notes") else {}
        self.emit(Event("cell_done", cell.label, {"seconds": round(seconds, 3)} | notes))

    def _fail(self, cell: Cell, message: str, seconds: float, result: dict[str, Any] | None = None) -> None:
        self.failed[cell.key] = message
        self.store.put(cell.key, Outcome("failed", result, message, seconds))
        self.emit(Event("cell_failed", cell.label, {"error": message}))


class _Workers:
    """The workers of a run: one at work, and at most one started ahead for the next variant."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._ahead: dict[str, Child] = {}

    def take(self, variant: str) -> Child:
        return self._ahead.pop(variant, None) or self.start(variant)

    def warm(self, variant: str) -> None:
        if variant not in self._ahead:
            self._ahead[variant] = self.start(variant)

    def start(self, variant: str) -> Child:
        return self._stack.enter_context(Child(log_path(self._directory, variant)))


def log_path(directory: Path, name: str) -> Path:
    """The file that takes a variant's native messages."""
    return directory / "logs" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.log"
