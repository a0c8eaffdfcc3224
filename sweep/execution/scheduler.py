"""Carries out cells: what is not known yet is done by an executor, each cell as soon as what it needs is there.

What makes files goes first, jobs of one batch together. A worker that dies costs the cell it was at. A measurement that
fails costs its cell, whoever is to blame; where that is a reference's text, or a reference that cannot be used, the
others lack their divergence and keep what else the text gives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from converters.errors import InputError, MissingRuntime
from sweep.events import Event
from sweep.execution.control import CANCELLED, LOOK_EVERY, Paused, forget, pause_is_asked, take_cancel
from sweep.execution.logs import log_name
from sweep.execution.pending import adopted, pending
from sweep.execution.protocol import Answer, Executor, Failed, Finished, Order, Progressed
from sweep.jobs.base import Result
from sweep.jobs.cell import Cell
from sweep.jobs.settings import Where
from sweep.results.store import Outcome, Store

Emit = Callable[[Event], None]
Grow = Callable[[Cell, Result], Iterable[Cell]]


@dataclass
class Scheduler:
    """`root` is the workspace, `directory` that of the run, where others ask it to pause or cancel. `emit` hears of
    everything, `through` of each variant of which nothing is left to do. `grow` gives further cells after each result:
    a measurement that goes in rounds decides by it what comes next."""

    cells: Sequence[Cell]
    store: Store
    executor: Executor
    root: Path
    directory: Path
    emit: Emit
    through: Callable[[str], None] = lambda _variant: None
    grow: Grow | None = None
    _waiting: list[Cell] = field(default_factory=list)
    _running: dict[str, list[Cell]] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)  # key -> message
    _single: set[str] = field(default_factory=set)  # keys of what is not to be done together with others
    _cancelled: set[str] = field(default_factory=set)  # labels
    _pausing: bool = False
    _ids: count[int] = field(default_factory=count)

    def run(self, name: str) -> None:
        """Do what is pending and commit each cell; `name` is the run's, for its events.

        Raises InputError where the model cannot be exported, MissingRuntime where there is nothing to export it with,
        Paused where that was asked for.
        """
        for key, alike in adopted(self.cells, self.store).items():
            self.store.copy(alike, key)
        if self.grow is not None:
            self._grow_from_known(self.grow)
        forget(self.directory)
        self._waiting = pending(self.cells, self.store, self.root)
        labels = [cell.label for cell in self._waiting]
        about = {"run": name, "cells": len(self.cells), "todo": len(labels), "pending": labels, "pid": os.getpid()}
        self.emit(Event("started", None, about))
        while self._waiting or self._running:
            self._obey()
            while self._start_next():
                continue
            if self._running:
                answer = self.executor.answer(LOOK_EVERY)
                if answer is not None:
                    self._take(answer)

    def add(self, cells: Iterable[Cell]) -> None:
        """More to do, at any time while it runs; cells that are there already, or known to be done, are passed over."""
        self._waiting += pending(self._joined(cells), self.store, self.root)

    def _joined(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those that were not there already, which now are."""
        known = {cell.key for cell in self.cells}
        fresh = [cell for cell in cells if cell.key not in known]
        self.cells = [*self.cells, *fresh]
        return fresh

    def _grow_from_known(self, grow: Grow) -> None:
        """What an earlier try of this run had come to."""
        fresh = list(self.cells)
        while fresh:
            cell = fresh.pop()
            outcome = self.store.outcomes([cell.key]).get(cell.key)
            if outcome is not None and outcome.status == "ok":
                fresh += self._joined(grow(cell, outcome.result(cell.kind)))

    # what is begun ---------------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Do what another process asks for."""
        if not self._pausing and pause_is_asked(self.directory):
            self._pausing = True
            self.executor.pause()
        if self._pausing and not self._running:
            raise Paused
        label = take_cancel(self.directory, [cell.label for cells in self._running.values() for cell in cells])
        if label is not None:
            self._cancelled.add(label)
            self.executor.cancel(next(id for id, cells in self._running.items() if label in [c.label for c in cells]))

    def _start_next(self) -> bool:
        """Begin the next cell, or let it fail for what it needs; whether there was one."""
        cell = next((cell for cell in sorted(self._waiting, key=self._turn) if self._is_ready(cell)), None)
        if cell is None:
            return False
        broken = [self._failed[key] for key in cell.needs if key in self._failed]
        if broken:
            self._waiting.remove(cell)
            self._fail(cell, f"needs what could not be made: {broken[0]}", 0.0)
            return True
        together = self._together(cell)
        running = [one for cells in self._running.values() for one in cells]
        alone = any(one.job.alone for one in [cell, *running])
        if self._pausing or len(self._running) >= self.executor.slots or (running and alone):
            return False
        self._waiting = [one for one in self._waiting if one not in together]
        id = f"{next(self._ids)}"
        self._running[id] = together
        jobs = tuple(one.job for one in self._without_broken_references(together))
        self.executor.submit(Order(id, jobs, _group(cell), log_name(cell)))
        for one in together:
            self.emit(Event("cell_started", one.label))
        self._expect(cell)
        return True

    def _turn(self, cell: Cell) -> int:
        """What makes files first. Where several run side by side, what must run alone next; else variant by variant."""
        return 0 if cell.job.making else 1 if cell.job.alone and self.executor.slots > 1 else 2

    def _is_ready(self, cell: Cell) -> bool:
        """Whether all that it needs and wants is settled, and nothing of its group runs."""
        unsettled = {one.key for one in self._waiting} | {one.key for cells in self._running.values() for one in cells}
        groups = {_group(cells[0]) for cells in self._running.values()}
        return _group(cell) not in groups and unsettled.isdisjoint((*cell.needs, *cell.wants))

    def _together(self, cell: Cell) -> list[Cell]:
        """The cells that are done in one go with this one."""
        if cell.job.batch is None or cell.key in self._single:
            return [cell]
        return [
            one
            for one in self._waiting
            if one.job.batch == cell.job.batch and one.key not in self._single and self._is_ready(one)
            if self._failed.keys().isdisjoint(one.needs)
        ]

    def _without_broken_references(self, cells: Sequence[Cell]) -> list[Cell]:
        """Where a reference has failed, the job that does without."""
        found = []
        for cell in cells:
            job = cell.job if self._lacking(cell) is None else cell.job.without_reference()
            found.append(cell if job is None else replace(cell, job=job))
        return found

    def _lacking(self, cell: Cell) -> str | None:
        """Why a text is measured without its divergence; None where nothing stands against it."""
        broken = next((key for key in cell.wants if key in self._failed), None)
        if broken is None:
            return None
        variant = next(one.variant for one in self.cells if one.key == broken)
        return f"no divergence, for {variant} could not be measured: {self._failed[broken]}"

    def _expect(self, cell: Cell) -> None:
        """Let the executor get ready for what comes next; not while speed is measured: to start a worker takes a core
        for seconds."""
        if cell.job.alone or cell.job.making:
            return
        upcoming = next((one for one in self._waiting if _group(one) != _group(cell)), None)
        if upcoming is not None:
            self.executor.expect(_group(upcoming), log_name(upcoming))

    # what comes of it ------------------------------------------------------------------------------------------------

    def _take(self, answer: Answer) -> None:
        cells = self._running[answer.id]
        if isinstance(answer, Progressed):
            part = {"part": answer.part} if answer.part else {}
            for cell in cells:
                self.emit(Event("cell_progress", cell.label, {"done": answer.done, "total": answer.total} | part))
            return
        del self._running[answer.id]
        if isinstance(answer, Finished):
            for cell, result in zip(cells, answer.results, strict=True):
                self._done(cell, result, answer.seconds / len(cells), answer.where)
        else:
            self._take_failure(cells, answer)
        left = {cell.variant for cell in self._waiting} | {c.variant for cells in self._running.values() for c in cells}
        for variant in dict.fromkeys(cell.variant for cell in cells):
            if variant not in left:
                self.through(variant)

    def _take_failure(self, cells: Sequence[Cell], answer: Failed) -> None:
        cancelled = [cell for cell in cells if cell.label in self._cancelled]
        for cell in cancelled:
            self._cancelled.discard(cell.label)
            self._fail(cell, CANCELLED, answer.seconds)
        others = [cell for cell in cells if cell not in cancelled]
        if not cancelled and (answer.input or answer.missing) and any(cell.job.essential for cell in cells):
            raise MissingRuntime(answer.message) if answer.missing else InputError(answer.message)
        if len(cells) > 1 and (cancelled or answer.died):  # one by one, so that the culprit alone fails
            self._single |= {cell.key for cell in others}
            self._waiting = [*others, *self._waiting]
            return
        for cell in others:
            self._fail(cell, answer.message, answer.seconds)

    def _done(self, cell: Cell, result: Result, seconds: float, where: Where) -> None:
        """What was measured counts even where some of it is lacking; the cell is to be tried again then."""
        lacking = result.lacking or self._lacking(cell)
        outcome = Outcome.of(result, seconds, where)
        if lacking is not None:
            self._fail(cell, lacking, seconds, outcome.row)
            return
        self.store.put(cell.key, outcome, result.items)
        if cell.alike is not None and not result.generated:
            self.store.copy(cell.key, cell.alike)
        notes = {"notes": list(result.notes)} if result.notes else {}
        self.emit(Event("cell_done", cell.label, {"seconds": round(seconds, 3)} | notes))
        if self.grow is not None:
            self.add(self.grow(cell, result))

    def _fail(self, cell: Cell, message: str, seconds: float, row: dict[str, Any] | None = None) -> None:
        self._failed[cell.key] = message
        self.store.put(cell.key, Outcome("failed", row, message, seconds))
        self.emit(Event("cell_failed", cell.label, {"error": message}))


def _group(cell: Cell) -> str:
    """What is done in one worker: a variant's measurements. What makes files runs apart, so that memory is measured in
    a process that has done nothing before."""
    return f"{log_name(cell)}/making" if cell.job.making else cell.variant
