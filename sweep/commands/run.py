"""Carrying out a plan: in this process, or by following the one that is already at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from converters.errors import InputError, MissingRuntime
from sweep.analysis.recommend import recommend
from sweep.events import Event, Log, Reader
from sweep.execution import runner
from sweep.execution.keep import Keep
from sweep.planning.cells import Cell
from sweep.planning.checking import check_inputs
from sweep.planning.preparing import Sweep
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import run_lock, sharing

FOLLOW_EVERY = 0.2  # seconds


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

    def tell(event: Event) -> None:
        log.write(event)
        emit(event)

    try:
        made = [(cell, Path(cell.makes)) for cell in sweep.plan.cells if cell.makes is not None]
        folder = sweep.workspace.artefacts(sweep.model.fingerprint)
        with sharing(folder, {file for _, file in made}) as artefacts:
            todo = runner.pending(sweep.plan, store)
            inputs = (sweep.text, sweep.tasks, directory, sweep.int8_calibration)
            check_inputs(sweep.plan, todo, sweep.model, sweep.variants, *inputs)

            def measured(name: str) -> None:
                if sweep.keep is Keep.NONE:
                    artefacts.discard(file for cell, file in made if cell.variant == name and cell.kind == "export")

            runner.run(sweep.plan, store, directory, tell, measured)
            artefacts.discard(_unneeded(sweep, store, made))
        tell(Event("done"))
    except KeyboardInterrupt:
        tell(Event("interrupted"))
        raise
    except (InputError, MissingRuntime) as error:
        tell(Event("refused", None, {"error": str(error)}))
        raise
    finally:
        log.close()


def _unneeded(sweep: Sweep, store: Store, made: Sequence[tuple[Cell, Path]]) -> list[Path]:
    """The files that need not stay: of `best`, all but the variant that is recommended."""
    if sweep.keep is Keep.ALL:
        return []
    best = recommend(records(sweep.plan, store)).variant if sweep.keep is Keep.BEST else None
    needed = {key for cell in sweep.plan.cells if cell.variant == best for key in (cell.key, *cell.needs)}
    return [file for cell, file in made if cell.kind not in ("export", "quantize") or cell.key not in needed]


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
