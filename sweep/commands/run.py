"""`sweep run` and `sweep eval`: makes a plan and runs it. If another process runs the same plan already, this process
follows its events."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from converters.atomic import exists_already
from converters.errors import InputError, MissingRuntime
from sweep import devices
from sweep.artefact import Artefact
from sweep.commands.run_advice import advise_on_run
from sweep.commands.search import SmallestFirst, without
from sweep.defaults import MARGIN_BYTES
from sweep.events import Event, EventLogReader, EventLogWriter
from sweep.execution.cells_to_run import cells_to_run
from sweep.execution.local import LocalHost
from sweep.execution.logs import log_path
from sweep.execution.registry import open_executor
from sweep.execution.scheduler import Scheduler, cells_dropped
from sweep.jobs.cell import Cell
from sweep.jobs.projector import ProjectorResult
from sweep.jobs.text import TextJob
from sweep.jobs.text_rounds import TextRoundsJob
from sweep.methods.base import PredictedSize
from sweep.planning import prepare as planning
from sweep.planning.input_checks import check_inputs
from sweep.planning.prepare import Sweep
from sweep.planning.request import Keep, Request
from sweep.results.estimate import predicted_seconds
from sweep.results.later_cells import cells_after, cells_at_the_end
from sweep.results.plan import Plan
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import run_lock, sharing

FOLLOW_EVERY = 0.2  # seconds


def prepare(request: Request, say: Callable[[str], None]) -> Sweep:
    """See planning.prepare.prepare."""
    with LocalHost() as host:
        return planning.prepare(request, say, host)


def prepare_single(request: Request, say: Callable[[str], None]) -> Sweep:
    """See planning.prepare.prepare_single."""
    with LocalHost() as host:
        return planning.prepare_single(request, say, host)


def variant_sizes(sweep: Sweep) -> dict[str, PredictedSize]:
    """See planning.prepare.variant_sizes."""
    with LocalHost() as host:
        return planning.variant_sizes(sweep, host)


def projector_sizes(sweep: Sweep) -> dict[str, ProjectorResult]:
    """See planning.prepare.projector_sizes."""
    with LocalHost() as host:
        return planning.projector_sizes(sweep, host)


def run(sweep: Sweep, emit: Callable[[Event], None]) -> Plan:
    """Run the plan. If another process runs it already, follow its event log instead. Returns the plan, without what a
    search has left out.

    Every event is passed to `emit` and written to the run's event log. Raises InputError if the input is rejected,
    MissingRuntime if a library or device is missing.
    """
    directory = sweep.workspace.run(sweep.plan.run)
    with Store(sweep.workspace.database) as store:
        store.add_run(sweep.plan.run, sweep.plan.to_json())
        while True:
            with run_lock(directory) as mine:
                if mine:
                    _run_plan(sweep, store, directory, emit)
                    skipped = SmallestFirst(sweep, store).larger_than_needed() if sweep.search_order else {}
                    plan = without(sweep.plan, skipped)
                    if sweep.search_order:
                        store.set_skipped(plan.run, plan.skipped)
                    return plan
            _follow(directory, emit)


def _run_plan(sweep: Sweep, store: Store, directory: Path, emit: Callable[[Event], None]) -> None:
    (directory / "events.jsonl").unlink(missing_ok=True)
    log = EventLogWriter(directory / "events.jsonl")
    plan, root = sweep.plan, sweep.workspace.root

    def report(event: Event) -> None:
        log.write(event)
        emit(event)

    try:
        outputs = [(cell, cell.output) for cell in plan.cells if cell.output is not None]
        folder = sweep.workspace.artefacts(sweep.model.fingerprint)
        with sharing(folder, {file.under(root) for _, file in outputs}) as artefacts:
            if sweep.search_order:  # an earlier start may have found one that is good enough
                dropped = SmallestFirst(sweep, store).larger_than_needed()
                if dropped:
                    report(cells_dropped(cell for cell in plan.cells if cell.variant in dropped))
                plan = without(plan, dropped)
            todo = cells_to_run(plan.cells, store, root)
            running = {cell.variant for cell in todo}
            kept = {cell.variant for cell in plan.cells if _may_go_on(cell)}

            artefacts.discard(file.under(root) for file in _unneeded_downloads(sweep, todo))

            def on_variant_done(name: str) -> None:
                if name in kept:
                    return
                running.discard(name)
                if sweep.search_order:
                    scheduler.drop(SmallestFirst(sweep, store).larger_than_needed())
                own = _made_only_for(name, plan.cells, running)
                artefacts.discard(file.under(root) for cell, file in own if _is_removed_early(sweep, cell))

            _require_replaceable(sweep, todo)
            with LocalHost(root, log_path(directory, "inputs")) as host:
                check_inputs(sweep, todo, host.run_job)
            workers = sweep.request.workers or _workers(sweep, todo)
            with open_executor(sweep.request.executor, root, directory, plan.resources, workers) as executor:

                def last_cells() -> list[Cell]:
                    more = cells_at_the_end(plan, store)
                    gone = {cell.key for cell in plan.cells if _is_gone(cell, root)}  # not worth a second download
                    return [cell for cell in more if gone.isdisjoint(cell.needs)]

                scheduler = Scheduler(plan.cells, store, executor, root, directory, report, on_variant_done)
                scheduler.next_cells = partial(cells_after, plan, store)
                scheduler.last_cells = last_cells
                scheduler.prepares_first = not (sweep.search_order or sweep.one_by_one)
                scheduler.predicted = predicted_seconds(plan, store)
                scheduler.run(plan.run)
            artefacts.discard(file.under(root) for file in _removable(sweep, store, outputs))
        report(Event("done"))
    except KeyboardInterrupt:
        report(Event("interrupted"))
        raise
    except (InputError, MissingRuntime) as error:
        report(Event("refused", None, {"error": str(error)}))
        raise
    finally:
        log.close()


def _require_replaceable(sweep: Sweep, todo: Sequence[Cell]) -> None:
    """Raises InputError if a cell would replace the file of --write-base, which then is not its earlier output."""
    jobs = (cell.job for cell in todo if isinstance(cell.job, TextJob))
    files = (job.base_file.under(sweep.workspace.root) for job in jobs if job.base_file is not None)
    for file in files if not sweep.request.force else ():
        if file.exists():
            raise InputError(exists_already(file))


def _workers(sweep: Sweep, todo: Sequence[Cell]) -> int:
    """The number of workers: one per GPU if there are several and every variant fits on each of them, otherwise one."""
    gpus = devices.gpus()
    request = sweep.request
    if len(gpus) < 2 or request.tensor_split or request.ngl is not None or not todo:
        return 1
    needed = max((size.memory_bytes for size in variant_sizes(sweep).values()), default=0)
    files = max((variant.file_bytes for variant in sweep.variants), default=0)
    free = min(gpu.free_bytes for gpu in gpus) - MARGIN_BYTES
    return len(gpus) if max(needed, files) <= free else 1


def _is_removed_early(sweep: Sweep, cell: Cell) -> bool:
    """Whether the model file that a cell makes is removed as soon as no variant needs it any more."""
    keep = sweep.request.keep
    return keep is Keep.NONE or (keep is None and cell.job.output_is_download)


def _may_go_on(cell: Cell) -> bool:
    """Whether a cell measures a reference on as many windows as other variants will need, so that its model stays to
    the end of the run."""
    return isinstance(cell.job, TextRoundsJob) and cell.job.baseline is None


def _unneeded_downloads(sweep: Sweep, todo: Sequence[Cell]) -> list[Artefact]:
    """Files that an earlier start of this run downloaded and could not remove."""
    needed = {key for cell in todo for key in (cell.key, *cell.needs)}
    unneeded = [cell for cell in sweep.plan.cells if cell.job.output_is_download and cell.key not in needed]
    return [cell.output for cell in unneeded if cell.output is not None and _is_removed_early(sweep, cell)]


def _is_gone(cell: Cell, root: Path) -> bool:
    """Whether a cell downloaded a file that was removed."""
    return cell.job.output_is_download and not cell.job.output_exists(root)


def _made_only_for(variant: str, cells: Sequence[Cell], others: Collection[str]) -> list[tuple[Cell, Artefact]]:
    """The model files that a variant uses and none of the variants `others`, with the cells that make them."""
    used: dict[str, set[str]] = {}
    for cell in cells:
        for key in (cell.key, *cell.needs):
            used.setdefault(key, set()).add(cell.variant)
    makers = [(cell, cell.output) for cell in cells if cell.output is not None and cell.job.output_is_model]
    return [(cell, file) for cell, file in makers if variant in used[cell.key] and used[cell.key].isdisjoint(others)]


def _removable(sweep: Sweep, store: Store, outputs: Sequence[tuple[Cell, Artefact]]) -> list[Artefact]:
    """The files to remove at the end of the run. With --keep best, the model of the variant to run stays."""
    keep, plan = sweep.request.keep, sweep.plan
    if keep is Keep.ALL:
        return []
    if keep is None:
        return [file for cell, file in outputs if cell.job.output_is_download]
    best = None
    if keep is Keep.BEST:
        best = advise_on_run(records(plan, store), plan, sweep.workspace, plan.question).variant
    needed = {key for cell in plan.cells if cell.variant == best for key in (cell.key, *cell.needs)}
    return [file for cell, file in outputs if not cell.job.output_is_model or cell.key not in needed]


def _follow(directory: Path, emit: Callable[[Event], None]) -> None:
    """Pass on the events of the process that holds the run's lock, until it releases the lock."""
    emit(Event("following"))
    reader = EventLogReader(directory / "events.jsonl")
    while True:
        for event in reader.read():
            emit(event)
        with run_lock(directory) as free:
            if free:
                return
        time.sleep(FOLLOW_EVERY)
