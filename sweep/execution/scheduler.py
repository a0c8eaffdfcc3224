"""Runs the cells of a plan on an executor. Cells with a stored result are not run again.

A cell starts when everything that it needs is done. Preparation jobs come first, and jobs of one batch run together.
Downloads run in the background, beside the others: one file ahead of the one that is measured.

If a worker dies, only the cell that it was running fails. If a measurement fails, only its cell fails. Cells that need
a cell which failed or was cancelled are skipped. If the text of a reference fails, or if a reference cannot be used,
the other variants have no divergence, but keep their perplexity.

Variants that differ in something that a measurement does not depend on have cells with the same key. The first of them
runs, and the others end with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from converters.errors import InputError, MissingRuntime
from sweep.endings import Ending
from sweep.events import Event
from sweep.execution.cells_to_run import cells_to_run, equivalent_results
from sweep.execution.control import CANCELLED, LOOK_EVERY, Paused, clear_requests, pause_requested, take_cancel
from sweep.execution.logs import log_name
from sweep.execution.protocol import Answer, Executor, Failed, Finished, Order, Progressed
from sweep.jobs.base import Result, StoredJob
from sweep.jobs.cell import Cell
from sweep.jobs.settings import ComputeResources
from sweep.results.paired_items import reference_items
from sweep.results.store import Outcome, Store

DOWNLOADED = 2  # files on the disk at the same time: the one that is measured, and the next one

Emit = Callable[[Event], None]
NextCells = Callable[[Cell, Result], Iterable[Cell]]


@dataclass(frozen=True)
class _Unfinished:
    """Why a cell has no whole result: its own message, and the words for cells that need it, which name the cell that
    is to blame. `brief` are those for cells of the same variant, which have the message beside them."""

    variant: str
    message: str
    blame: str
    brief: str


@dataclass
class Scheduler:
    """Runs `cells` and stores their results.

    - `root` is the workspace's folder, `directory` the run's folder, where other processes ask to pause or cancel.
    - `emit` is called with every event.
    - `on_variant_done` is called with the name of each variant whose cells have all ended.
    - `predicted` are the seconds that cells took in earlier runs, by label, for those who show the time left.
    - `next_cells` returns further cells after each result, for measurements that work in rounds. They run next.
    - `prepares_first`: files are made before anything is measured, those of one batch together; otherwise when it is
      the variant's turn, because it may not come.
    - `last_cells` returns further cells when all others have ended, again and again until there are no new ones.
    """

    cells: Sequence[Cell]
    store: Store
    executor: Executor
    root: Path
    directory: Path
    emit: Emit
    on_variant_done: Callable[[str], None] = lambda _variant: None
    next_cells: NextCells | None = None
    last_cells: Callable[[], Iterable[Cell]] | None = None
    prepares_first: bool = True
    predicted: Mapping[str, float] = field(default_factory=dict)
    _waiting: list[Cell] = field(default_factory=list)
    _running: dict[str, list[Cell]] = field(default_factory=dict)
    _unfinished: dict[str, _Unfinished] = field(default_factory=dict)  # by key
    _ended: dict[str, Event] = field(default_factory=dict)  # the last event of a cell of this key
    _run_alone: set[str] = field(default_factory=set)  # keys of cells that do not run in a batch any more
    _cancelled: set[str] = field(default_factory=set)  # labels
    _pausing: bool = False
    _ids: count[int] = field(default_factory=count)

    def run(self, name: str) -> None:
        """Run the cells that have no result and store each result at once. `name` is the run's id, for events.

        Raises InputError or MissingRuntime if an essential cell fails, Paused if another process asked to pause.
        """
        for key, equivalent_key in equivalent_results(self.cells, self.store).items():
            self.store.copy(equivalent_key, key)
        if self.next_cells is not None:
            self._add_next_of_known(self.next_cells)
        clear_requests(self.directory)
        self._waiting = cells_to_run(self.cells, self.store, self.root)
        labels = [cell.label for cell in self._waiting]
        about = {"run": name, "cells": len(self.cells), "todo": len(labels), "pending": labels, "pid": os.getpid()}
        about["predicted"] = self._predicted_seconds()
        self.emit(Event("started", None, about))
        self._run_waiting()
        while self.last_cells is not None:
            self._waiting = self._with_makers(self._add_new(self.last_cells()))
            if not self._waiting:
                break
            self._tell_added(self._waiting)
            self._run_waiting()

    def _predicted_seconds(self) -> dict[str, float]:
        """By label. Cells that end with another one take no time."""
        runs = {cell.key: cell.label for cell in reversed(self._waiting)}
        return {
            cell.label: round(self.predicted[cell.label], 3) if runs[cell.key] == cell.label else 0.0
            for cell in self._waiting
            if cell.label in self.predicted
        }

    def _run_waiting(self) -> None:
        """Run cells until none waits or runs."""
        while self._waiting or self._running:
            self._handle_requests()
            while self._start_next():
                continue
            if self._running:
                answer = self.executor.answer(LOOK_EVERY)
                if answer is not None:
                    self._handle_answer(answer)

    def add(self, cells: Iterable[Cell]) -> None:
        """Add cells at any time, before those that wait, and the cells that make their files, if those were removed.
        Cells that were added before or have a stored result are ignored."""
        added = self._with_makers(self._add_new(cells))
        if added:
            self._waiting = [*added, *self._waiting]
            self._tell_added(added)

    def drop(self, variants: Collection[str]) -> None:
        """Leave the waiting cells of these variants out, and do not look for further ones. Nothing happens without
        variants."""
        if not variants:
            return
        dropped = [cell for cell in self._waiting if cell.variant in variants]
        self._waiting = [cell for cell in self._waiting if cell.variant not in variants]
        self.last_cells = None
        if dropped:
            self.emit(cells_dropped(dropped))

    def _tell_added(self, cells: Sequence[Cell]) -> None:
        self.emit(Event("cells_added", None, {"pending": [cell.label for cell in cells]}))

    def _with_makers(self, added: Sequence[Cell]) -> list[Cell]:
        """Those of the new cells that have to run, after the cells that make their files, in case those were removed in
        the meantime."""
        busy = {cell.key for cell in self._waiting} | {one.key for cells in self._running.values() for one in cells}
        needed = {key for cell in added for key in cell.needs} - busy - set(self._unfinished)
        makers: list[Cell] = []
        for cell in reversed(self.cells):  # a cell comes before the cells that need it
            if cell.key in needed:
                makers = [cell, *makers]
                needed |= set(cell.needs)
        chosen = cells_to_run([*makers, *added], self.store, self.root)
        for cell in chosen:
            self._ended.pop(cell.key, None)
        return chosen

    def _add_new(self, cells: Iterable[Cell]) -> list[Cell]:
        """Add the cells that are new, and return them."""
        known = {cell.key for cell in self.cells}
        fresh = [cell for cell in cells if cell.key not in known]
        self.cells = [*self.cells, *fresh]
        return fresh

    def _add_next_of_known(self, next_cells: NextCells) -> None:
        """Add the cells that `next_cells` gives for the results of an earlier start of this run."""
        fresh = list(self.cells)
        while fresh:
            cell = fresh.pop()
            outcome = self.store.outcomes([cell.key]).get(cell.key)
            if outcome is not None and outcome.status == "ok" and outcome.is_readable(cell.kind):
                fresh += self._add_new(next_cells(cell, outcome.result(cell, self.directory.name)))

    # Starting cells --------------------------------------------------------------------------------------------------

    def _handle_requests(self) -> None:
        """Pause, resume or cancel if another process asks for it."""
        asked = pause_requested(self.directory)
        if asked != self._pausing:  # the request may be withdrawn while jobs are still running
            self._pausing = asked
            (self.executor.pause if asked else self.executor.resume)()
        if self._pausing and not self._running:
            raise Paused
        label = take_cancel(self.directory, [cell.label for cells in self._running.values() for cell in cells])
        if label is not None:
            self._cancelled.add(label)
            self.executor.cancel(next(id for id, cells in self._running.items() if label in [c.label for c in cells]))

    def _start_next(self) -> bool:
        """Start the next cell, or skip it if a cell that it needs has no result. Returns whether there was one."""
        ready = [cell for cell in sorted(self._waiting, key=self._priority) if self._is_ready(cell)]
        if any(cells[0].job.in_background for cells in self._running.values()):
            ready = [cell for cell in ready if not cell.job.exclusive]  # the others need not wait for the download too
        here = [cell for cell in ready if not cell.job.in_background]
        downloads = [cell for cell in ready if cell.job.in_background]
        if self._start_first(here) or self._start_first([cell for cell in downloads if self._may_download(cell)]):
            return True
        return not self._running and self._start_first(downloads)  # the others wait for a file that was removed

    def _start_first(self, ready: Sequence[Cell]) -> bool:
        """Start the first of these cells, or skip it if a cell that it needs has no result. Returns whether it was
        possible."""
        if not ready:
            return False
        cell = ready[0]
        if cell.key in self._ended:
            self._end_like_another(cell)
            return True
        missing = next((self._unfinished[key] for key in cell.needs if key in self._unfinished), None)
        if missing is not None:
            self._waiting.remove(cell)
            words = missing.brief if missing.variant == cell.variant else missing.blame
            self._end(cell, Ending.SKIPPED, f"needs {words}", 0.0, because_of=missing)
            self._report_done([cell])
            return True
        batch = self._batch_of(cell)
        running = [cells[0] for cells in self._running.values()]
        exclusive = any(one.job.exclusive for one in [cell, *running])
        alike = [one for one in running if one.job.in_background == cell.job.in_background]
        slots = 1 if cell.job.in_background else self.executor.slots
        if self._pausing or len(alike) >= slots or (running and exclusive):
            return False
        self._waiting = [one for one in self._waiting if one not in batch]
        id = f"{next(self._ids)}"
        self._running[id] = batch
        jobs = tuple(one.job for one in self._without_missing_references(batch))
        for job in jobs:
            self._write_items(job)
        self.executor.submit(Order(id, jobs, _group(cell), log_name(cell)))
        for one in batch:
            self.emit(Event("cell_started", one.label))
        self._announce_next(cell)
        return True

    def _write_items(self, job: StoredJob[Any]) -> None:
        """Write the file of stored items that a job reads."""
        wanted = job.reads_items
        if wanted is not None:
            reference_items(self.store.items(wanted.key)).save(wanted.file.under(self.root))

    def _may_download(self, cell: Cell) -> bool:
        """Whether no more than one other downloaded file is on the disk, or arrives now: the one that is measured. A
        file stays until all variants that use it are measured."""
        waiting = {one.key for one in self._waiting}
        left = {one.variant for one in self._waiting} | {c.variant for cells in self._running.values() for c in cells}
        in_use = {key for one in self.cells if one.variant in left for key in (one.key, *one.needs)}
        on_disk = {one.key for one in self.cells if one.job.in_background and one.key not in waiting}
        return len((on_disk & in_use) - {cell.key}) < DOWNLOADED

    def _priority(self, cell: Cell) -> int:
        """Preparation jobs come first, if they are to. If several jobs can run at the same time, exclusive jobs come
        next. The other cells run in the order of the plan, variant by variant."""
        return (
            0
            if cell.job.is_preparation and self.prepares_first
            else 1
            if cell.job.exclusive and self.executor.slots > 1
            else 2
        )

    def _is_ready(self, cell: Cell) -> bool:
        """Whether all cells that it waits for have ended, and no cell of its group is running."""
        unfinished = {one.key for one in self._waiting} | {one.key for cells in self._running.values() for one in cells}
        groups = {_group(cells[0]) for cells in self._running.values()}
        running = {one.key for cells in self._running.values() for one in cells}
        if cell.key in running or _group(cell) in groups:
            return False
        return unfinished.isdisjoint((*cell.needs, *cell.optional_needs))

    def _batch_of(self, cell: Cell) -> list[Cell]:
        """The cells that run together with this one."""
        if cell.job.batch_key is None or cell.key in self._run_alone or not self.prepares_first:
            return [cell]
        found: dict[str, Cell] = {}
        for one in self._waiting:
            alike = one.job.batch_key == cell.job.batch_key and one.key not in self._run_alone
            if alike and self._is_ready(one) and self._unfinished.keys().isdisjoint(one.needs):
                found.setdefault(one.key, one)
        return list(found.values())

    def _without_missing_references(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells, with jobs that do not need their reference if it has no result."""
        changed = []
        for cell in cells:
            job = cell.job if self._missing_reference(cell) is None else cell.job.without_reference()
            changed.append(cell if job is None else replace(cell, job=job))
        return changed

    def _missing_reference(self, cell: Cell) -> str | None:
        """Why a text is measured without its divergence; None if its reference has its result."""
        missing = next((key for key in cell.optional_needs if key in self._unfinished), None)
        if missing is None:
            return None
        variant = next(one.variant for one in self.cells if one.key == missing)
        return f"no divergence, because {variant} could not be measured: {self._unfinished[missing].message}"

    def _announce_next(self, cell: Cell) -> None:
        """Let the executor know which group comes next.

        This is not done while speed is measured or files are made, because starting a worker takes a core for seconds.
        """
        if cell.job.exclusive or cell.job.is_preparation:
            return
        others = (one for one in self._waiting if not one.job.in_background)
        upcoming = next((one for one in others if _group(one) != _group(cell)), None)
        if upcoming is not None:
            self.executor.expect(_group(upcoming), log_name(upcoming))

    # Handling answers ------------------------------------------------------------------------------------------------

    def _handle_answer(self, answer: Answer) -> None:
        cells = self._running[answer.id]
        if isinstance(answer, Progressed):
            part = {"part": answer.part} if answer.part else {}
            for cell in cells:
                self.emit(Event("cell_progress", cell.label, {"done": answer.done, "total": answer.total} | part))
            return
        del self._running[answer.id]
        if isinstance(answer, Finished):
            for cell, result in zip(cells, answer.results, strict=True):
                self._done(cell, result, answer.seconds / len(cells), answer.resources)
        else:
            self._handle_failure(cells, answer)
        self._report_done(cells)

    def _report_done(self, cells: Sequence[Cell]) -> None:
        """Report the variants of these cells if all their cells have ended."""
        left = {cell.variant for cell in self._waiting} | {c.variant for cells in self._running.values() for c in cells}
        for variant in dict.fromkeys(cell.variant for cell in cells):
            if variant not in left:
                self.on_variant_done(variant)

    def _end_like_another(self, cell: Cell) -> None:
        """End a cell whose key is that of a cell which has ended."""
        self._waiting.remove(cell)
        other = self._ended[cell.key]
        seconds = {"seconds": 0.0} if "seconds" in other.data else {}
        self.emit(Event(other.event, cell.label, {**other.data, **seconds, "same_as": other.cell}))
        self._report_done([cell])

    def _handle_failure(self, cells: Sequence[Cell], answer: Failed) -> None:
        cancelled = [cell for cell in cells if cell.label in self._cancelled]
        for cell in cancelled:
            self._cancelled.discard(cell.label)
            self._end(cell, Ending.CANCELLED, CANCELLED, answer.seconds)
        others = [cell for cell in cells if cell not in cancelled]
        if not cancelled and (answer.input or answer.missing) and any(cell.job.essential for cell in cells):
            raise MissingRuntime(answer.message) if answer.missing else InputError(answer.message)
        if len(cells) > 1 and (cancelled or answer.died):  # run them one by one, so that only the one to blame fails
            self._run_alone |= {cell.key for cell in others}
            self._waiting = [*others, *self._waiting]
            return
        for cell in others:
            self._end(cell, Ending.FAILED, answer.message, answer.seconds)

    def _done(self, cell: Cell, result: Result, seconds: float, resources: ComputeResources) -> None:
        """Store a result. An incomplete result is stored too, but its cell counts as failed, or as skipped if its
        reference has no result, so that it is run again next time."""
        outcome = Outcome.of(result, seconds, resources)
        lacking = self._missing_reference(cell)
        if result.incomplete_reason is not None:
            self._end(cell, Ending.FAILED, result.incomplete_reason, seconds, outcome.row)
            return
        if lacking is not None and not cell.job.whole_without_reference:
            self._end(cell, Ending.SKIPPED, lacking, seconds, outcome.row)
            return
        self.store.put(cell.key, outcome, result.items, result.questions)
        if cell.equivalent_key is not None and not result.generated:
            self.store.copy(cell.key, cell.equivalent_key)
        notes = {"notes": list(result.notes)} if result.notes else {}
        self._emit_end(Event("cell_done", cell.label, {"seconds": round(seconds, 3)} | notes), cell)
        if self.next_cells is not None:
            self.add(self.next_cells(cell, result))

    def _end(
        self,
        cell: Cell,
        ending: Ending,
        message: str,
        seconds: float,
        row: dict[str, Any] | None = None,
        because_of: _Unfinished | None = None,
    ) -> None:
        """Store that a cell has no whole result, and tell it. `because_of`: the cell that is the reason; None: this."""
        how = "was cancelled" if ending is Ending.CANCELLED else "failed"
        brief = f"{cell.label}, which {how}"
        blame = brief if ending is Ending.CANCELLED else f"{brief}: {message}"
        own = _Unfinished(cell.variant, message, blame, brief)
        self._unfinished[cell.key] = own if because_of is None else replace(because_of, message=message)
        self.store.put(cell.key, Outcome(ending, row, message, seconds))
        self._emit_end(Event(f"cell_{ending}", cell.label, {"error": message}), cell)

    def _emit_end(self, event: Event, cell: Cell) -> None:
        self._ended[cell.key] = event
        self.emit(event)


def cells_dropped(cells: Iterable[Cell]) -> Event:
    return Event("cells_dropped", None, {"dropped": [cell.label for cell in cells]})


def _group(cell: Cell) -> str:
    """The group of cells that run in one worker: the measurements of a variant. Preparation jobs run in other workers,
    so that memory is measured in a process that has done nothing before."""
    if not cell.job.is_preparation:
        return cell.variant
    return f"{cell.variant if cell.job.batch_key is None else cell.kind}/preparation"
