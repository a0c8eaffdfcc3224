"""`sweep run` and `sweep eval`: a plan is made, and carried out in this process or by following the one that is already
at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from converters.errors import InputError, MissingRuntime
from sweep import devices
from sweep.analysis.recommend import recommend
from sweep.artefact import Artefact
from sweep.defaults import MARGIN_BYTES
from sweep.events import Event, Log, Reader
from sweep.execution.local import LocalHost
from sweep.execution.logs import log_path
from sweep.execution.pending import pending
from sweep.execution.registry import open_executor
from sweep.execution.scheduler import Scheduler
from sweep.jobs.cell import Cell
from sweep.methods.base import PlannedSize
from sweep.planning import preparing
from sweep.planning.checking import check_inputs
from sweep.planning.preparing import Sweep
from sweep.planning.request import Keep, Request
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import run_lock, sharing

FOLLOW_EVERY = 0.2  # seconds


def prepare(request: Request, say: Callable[[str], None]) -> Sweep:
    """See preparing.prepare."""
    return preparing.prepare(request, say, LocalHost())


def prepare_single(request: Request, say: Callable[[str], None]) -> Sweep:
    """See preparing.prepare_single."""
    return preparing.prepare_single(request, say, LocalHost())


def variant_sizes(sweep: Sweep) -> dict[str, PlannedSize]:
    """See preparing.variant_sizes."""
    return preparing.variant_sizes(sweep, LocalHost())


def run(sweep: Sweep, emit: Callable[[Event], None]) -> None:
    """Carry out the plan; where another process is at it, follow its event log instead.

    Raises InputError where the input is refused before any work, MissingRuntime where a library or device that it takes
    is not there. Every event also goes to the run's event log.
    """
    directory = sweep.workspace.run(sweep.plan.run)
    with Store(sweep.workspace.database) as store:
        store.add_run(sweep.plan.run, sweep.plan.to_json())
        while True:
            with run_lock(directory) as mine:
                if mine:
                    _carry_out(sweep, store, directory, emit)
                    return
            _follow(directory, emit)


def _carry_out(sweep: Sweep, store: Store, directory: Path, emit: Callable[[Event], None]) -> None:
    (directory / "events.jsonl").unlink(missing_ok=True)
    log = Log(directory / "events.jsonl")
    plan, root = sweep.plan, sweep.workspace.root

    def tell(event: Event) -> None:
        log.write(event)
        emit(event)

    try:
        made = [(cell, cell.makes) for cell in plan.cells if cell.makes is not None]
        folder = sweep.workspace.artefacts(sweep.model.fingerprint)
        with sharing(folder, {file.under(root) for _, file in made}) as artefacts:

            def through(name: str) -> None:
                if sweep.request.keep is Keep.NONE:
                    own = [file for cell, file in made if cell.variant == name and cell.job.makes_model]
                    artefacts.discard(file.under(root) for file in own)

            todo = pending(plan.cells, store, root)
            check_inputs(sweep, todo, LocalHost(root, log_path(directory, "inputs")).ask)
            workers = sweep.request.workers or _workers(sweep, todo)
            with open_executor(sweep.request.executor, root, directory, plan.where, workers) as executor:
                Scheduler(plan.cells, store, executor, root, directory, tell, through).run(plan.run)
            artefacts.discard(file.under(root) for file in _unneeded(sweep, store, made))
        tell(Event("done"))
    except KeyboardInterrupt:
        tell(Event("interrupted"))
        raise
    except (InputError, MissingRuntime) as error:
        tell(Event("refused", None, {"error": str(error)}))
        raise
    finally:
        log.close()


def _workers(sweep: Sweep, todo: Sequence[Cell]) -> int:
    """One a GPU where several are here and every variant to be measured fits on each of them; else one."""
    cards = devices.gpus()
    asked = sweep.request
    if len(cards) < 2 or asked.tensor_split or asked.ngl is not None or not todo:
        return 1
    needed = max((size.memory_bytes for size in variant_sizes(sweep).values()), default=0)
    given = max((variant.file_bytes for variant in sweep.variants), default=0)
    free = min(card.free_bytes for card in cards) - MARGIN_BYTES
    return len(cards) if max(needed, given) <= free else 1


def _unneeded(sweep: Sweep, store: Store, made: Sequence[tuple[Cell, Artefact]]) -> list[Artefact]:
    """The files that need not stay: of `best`, all but the variant that is recommended."""
    keep, plan = sweep.request.keep, sweep.plan
    if keep is Keep.ALL:
        return []
    best = recommend(records(plan, store)).variant if keep is Keep.BEST else None
    needed = {key for cell in plan.cells if cell.variant == best for key in (cell.key, *cell.needs)}
    return [file for cell, file in made if not cell.job.makes_model or cell.key not in needed]


def _follow(directory: Path, emit: Callable[[Event], None]) -> None:
    """Pass on the events of the process that holds the run's lock, until it has let go of it."""
    emit(Event("following"))
    reader = Reader(directory / "events.jsonl")
    while True:
        for event in reader.read():
            emit(event)
        with run_lock(directory) as free:
            if free:
                return
        time.sleep(FOLLOW_EVERY)
