"""From a request to a finished run: what the command line and the screen both call.

`prepare` resolves the request to a plan, `run` carries it out (or follows another process that does).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InputError
from converters.recipes import recipe, refuse_without_imatrix
from sweep import devices, preset, runner, variant
from sweep.calibration import calibration, tell
from sweep.child import Child, Failed
from sweep.events import Event, Log, Reader
from sweep.inputs import Text, text_for
from sweep.keep import Keep
from sweep.measure.options import TaskOptions
from sweep.model import Model, resolve
from sweep.plan import Cell, Plan, Settings, make_plan
from sweep.records import records
from sweep.report.recommend import recommend
from sweep.store import Store
from sweep.tasks import Task, tasks_for
from sweep.workspace import Workspace, open_workspace, run_lock, sharing

DEFAULT_CTX = 8192
FOLLOW_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Request:
    """What the user asked for; None where the preset or the model decides.

    `imatrix` is a file's path or "auto", `calibration` the text that the latter reads. With `dry_run` nothing is
    fetched that a plan can do without.
    """

    model: str = "micro"
    preset: str = "q2-q8"
    variants: str | None = None
    tasks: tuple[str, ...] | None = None
    task_data: Path | None = None
    perplexity: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool | None = None
    thinking: bool | None = None
    max_gen_toks: int | None = None
    allow_code: bool = False
    ctx: int | None = None
    imatrix: str | None = None
    calibration: Path | None = None
    keep: Keep = Keep.ALL
    ngl: int | None = None
    n_cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    workspace: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Sweep:
    """A plan with what it was made from."""

    plan: Plan
    model: Model
    variants: tuple[variant.Variant, ...]
    text: Text | None
    tasks: tuple[Task, ...]
    workspace: Workspace
    keep: Keep = Keep.ALL


def prepare(request: Request, say: Callable[[str], None]) -> Sweep:
    """Resolve and plan. Nothing is written but the workspace's folder. Raises InputError for any bad input."""
    chosen = preset.load(request.preset)
    parsed = variant.parse_list(_variants(chosen, request.variants))
    quants = [recipe(entry.quant) for entry in parsed if entry.quant is not None]
    if request.imatrix is None and not request.dry_run:
        refuse_without_imatrix(quants)
    model = resolve(request.model, say, planned=request.dry_run)
    given = calibration(request.imatrix, request.calibration, model.builtin)
    if given is not None:
        tell(given, say)
    variants = variant.fetched(parsed, say, download=not request.dry_run)
    workspace = open_workspace(request.workspace)
    text = text_for(model, request.perplexity, workspace.texts)
    tasks = tasks_for(model, request.tasks or chosen.tasks, task_options(request, chosen.limit), request.task_data)
    placement = devices.placement()
    settings = Settings(
        ctx=memory_context(request.ctx or chosen.ctx, model),
        threads=devices.threads(),
        device=placement.device,
        gpu_layers=placement.gpu_layers if request.ngl is None else request.ngl,
        cpu_moe=request.n_cpu_moe,
        tensor_split=request.tensor_split,
    )
    reference = variant.parse(chosen.reference).name
    plan = make_plan(workspace, model, variants, reference, text, tasks, settings, chosen.name, given)
    return Sweep(plan, model, tuple(variants), text, tasks, workspace, request.keep)


def task_options(request: Request, limit: int | None = None) -> TaskOptions:
    """How the request wants tasks asked; `limit` is the preset's."""
    return TaskOptions(
        limit=request.limit or limit,
        num_fewshot=request.num_fewshot,
        chat_template=request.thinking is not None if request.chat_template is None else request.chat_template,
        thinking=request.thinking,
        max_gen_toks=request.max_gen_toks,
        allow_code=request.allow_code,
    )


def memory_context(asked: int | None, model: Model) -> int:
    """The context that memory is stated for. Raises InputError where the model was not made for so much."""
    if asked is not None and asked > model.context:
        raise InputError(f"--ctx {asked} is beyond the {model.context} tokens that {model.name} was made for")
    return asked or min(DEFAULT_CTX, model.context)


def _variants(chosen: preset.Preset, asked: str | None) -> list[str]:
    """The preset's variants and those asked for; `=A,B` asks for those and the reference alone."""
    if asked is None:
        return list(chosen.variants)
    own = [name.strip() for name in asked.removeprefix("=").split(",") if name.strip()]
    return [chosen.reference, *own] if asked.startswith("=") else [*chosen.variants, *own]


def run(sweep: Sweep, emit: Callable[[Event], None]) -> None:
    """Carry out the plan; where another process is at it, follow its event log instead.

    Raises InputError where the input leaves nothing to measure. Every event also goes to the run's event log.
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
            if runner.pending(sweep.plan, store):
                _check_inputs(sweep, directory)

            def measured(name: str) -> None:
                if sweep.keep is Keep.NONE:
                    artefacts.discard(file for cell, file in made if cell.variant == name and cell.kind == "export")

            runner.run(sweep.plan, store, directory, tell, measured)
            artefacts.discard(_unneeded(sweep, store, made))
        tell(Event("done"))
    except KeyboardInterrupt:
        tell(Event("interrupted"))
        raise
    except InputError as error:
        tell(Event("refused", None, {"error": str(error)}))
        raise
    finally:
        log.close()


def _unneeded(sweep: Sweep, store: Store, made: Sequence[tuple[Cell, Path]]) -> list[Path]:
    """The files that need not stay: of `best`, all but the variant that is recommended."""
    if sweep.keep is Keep.ALL:
        return []
    best = recommend(records(sweep.plan, store)).variant if sweep.keep is Keep.BEST else None
    return [file for cell, file in made if cell.kind != "export" or cell.variant != best]


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


def _check_inputs(sweep: Sweep, directory: Path) -> None:
    """Tasks and texts that are not local are looked for before any work: they may need a network."""
    foreign = [task for task in sweep.tasks if not task.is_local or sweep.model.builtin is None or task.data]
    text = sweep.text
    dataset = text.dataset if text is not None and not text.file.exists() else None
    if not foreign and dataset is None:
        return
    job = {
        "kind": "inputs",
        "tasks": [task.to_json() for task in foreign],
        "dataset": dataset,
        "file": None if text is None else str(text.file),
    }
    with Child(runner.log_path(directory, "inputs")) as child:
        for answer in child.submit(job):
            if isinstance(answer, Failed):
                raise InputError(answer.message)


def sizes(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Exact file bytes, bits per weight and predicted memory of each variant to be exported, from a worker."""
    quants = [entry.quant for entry in sweep.variants if entry.quant is not None]
    job: dict[str, Any] = {"kind": "sizes", "source": str(sweep.model.path), "name": sweep.model.name, "quants": quants}
    job["imatrix"] = sweep.plan.about["imatrix"] is not None
    with tempfile.TemporaryDirectory() as directory, Child(Path(directory) / "sizes.log") as child:
        for answer in child.submit(job | {"settings": sweep.plan.to_json()["settings"]}):
            if isinstance(answer, Failed):
                raise InputError(answer.message)
            if isinstance(answer, dict):
                return answer
    raise AssertionError("a job ends with a result or a failure")
