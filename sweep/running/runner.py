"""Runs a plan: what is not known yet is done in worker processes, one for all cells of a variant, each committed.

All exports go first, in one pass over the checkpoint. A worker that dies costs the cell it was at; another takes over.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from converters.errors import InputError
from sweep.events import Event
from sweep.plan import Cell, Plan
from sweep.running.child import Child, Failed
from sweep.running.control import CANCELLED, Paused, cancelling, forget, pause_is_asked
from sweep.store import Item, Outcome, Store

Emit = Callable[[Event], None]


def pending(plan: Plan, store: Store) -> list[Cell]:
    """The cells to run: those not known to be done, and those whose file is gone while one of them needs it."""
    outcomes = store.outcomes(cell.key for cell in plan.cells)
    done = {key for key, outcome in outcomes.items() if outcome.status == "ok"}
    wanted = {cell.key for cell in plan.cells if cell.key not in done}
    for cell in reversed(plan.cells):  # what is needed stands before what needs it
        if cell.key in wanted:
            continue
        needed = any(cell.key in other.needs for other in plan.cells if other.key in wanted)
        if needed and cell.makes is not None and not Path(cell.makes).exists():
            wanted.add(cell.key)
    return [cell for cell in plan.cells if cell.key in wanted]


def run(
    plan: Plan, store: Store, directory: Path, emit: Emit, measured: Callable[[str], None] = lambda _variant: None
) -> None:
    """Do what is pending and commit each cell; `measured` is told each variant that is through.

    Raises InputError where the input leaves nothing to measure.
    """
    _Run(plan, store, directory, emit, measured).go()


class _Run:
    def __init__(self, plan: Plan, store: Store, directory: Path, emit: Emit, measured: Callable[[str], None]) -> None:
        self.plan, self.store, self.directory, self.emit, self.measured = plan, store, directory, emit, measured
        self.failed: dict[str, str] = {}  # key -> message

    def go(self) -> None:
        todo = pending(self.plan, self.store)
        labels = [cell.label for cell in todo]
        about = {"run": self.plan.run, "cells": len(self.plan.cells), "todo": len(todo), "pending": labels}
        forget(self.directory)
        self.emit(Event("started", None, about | {"pid": os.getpid()}))
        exports = [cell for cell in todo if cell.kind == "export"]
        collects = [cell for cell in todo if cell.kind == "imatrix"]
        measures = [cell for cell in todo if cell.kind not in ("export", "imatrix")]
        groups = [list(cells) for _, cells in groupby(measures, lambda cell: cell.variant)]
        with ExitStack() as stack:
            workers = _Workers(self.directory, stack)
            self._export([cell for cell in exports if not cell.needs])
            if collects:
                self._measure(collects, workers, None)
            self._export([cell for cell in exports if cell.needs])
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
                    if answer.input:
                        raise InputError(answer.message)
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
            with cancelling(self.directory, [cell.label], worker.interrupt) as cancelled:
                for answer in worker.submit({"kind": cell.kind, **cell.params}):
                    seconds = time.monotonic() - started
                    if isinstance(answer, tuple):
                        self._progress(cell, answer)
                    elif isinstance(answer, Failed):
                        if answer.input and cell.variant == self.plan.reference:
                            raise InputError(answer.message)
                        self._fail(cell, CANCELLED if cancelled else answer.message, seconds)
                    else:
                        self._done(cell, answer, seconds)
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
        broken = [self.failed[key] for key in cell.needs if key in self.failed]
        if broken:
            self._fail(cell, f"needs what could not be made: {broken[0]}", 0.0)
        return bool(broken)

    def _progress(self, cell: Cell, at: tuple[int, int, str]) -> None:
        done, total, part = at
        self.emit(Event("cell_progress", cell.label, {"done": done, "total": total} | ({"part": part} if part else {})))

    def _done(self, cell: Cell, result: dict[str, object], seconds: float) -> None:
        items = result.pop("items", [])
        assert isinstance(items, list)
        self.store.put(cell.key, Outcome("ok", result, None, seconds), [Item(*item) for item in items])
        notes = {"notes": result["notes"]} if result.get("notes") else {}
        self.emit(Event("cell_done", cell.label, {"seconds": round(seconds, 3)} | notes))

    def _fail(self, cell: Cell, message: str, seconds: float) -> None:
        self.failed[cell.key] = message
        self.store.put(cell.key, Outcome("failed", None, message, seconds))
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
