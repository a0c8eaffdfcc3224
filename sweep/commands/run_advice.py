"""The advice on the variants of a run. With GPUs, only variants that `sweep fit` places on them are chosen, and they
run where it places them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from converters.errors import InputError
from converters.gguf_repository import name_in_repository
from converters.hub import HUB
from sweep.analysis import figures
from sweep.analysis.advice import Advice, advise
from sweep.analysis.candidate import Candidate
from sweep.analysis.fit_candidates import Measurements, fit_candidates
from sweep.analysis.run_candidates import run_candidates
from sweep.analysis.run_commands import model_as_typed, run_commands, variant_files
from sweep.commands.fit import fit
from sweep.fit.fit_report import GGUF, FitOptions, FitReport, FitRow, Verdict, verdict
from sweep.fit.hardware import Device, allows_ram, parse_devices
from sweep.fit.local_devices import local_devices
from sweep.jobs.download import DownloadJob
from sweep.jobs.export import ExportJob
from sweep.kv_cache import KVCache
from sweep.methods.registry import parse
from sweep.record import Record
from sweep.results.plan import Plan
from sweep.run_question import NO_QUESTION, RunQuestion
from sweep.variant_name import MMPROJ, split_cache, split_projector
from sweep.workspace import Workspace

AskFit = Callable[[str, Sequence[str], Sequence[Device], FitOptions], FitReport]


def advise_on_run(
    rows: Sequence[Record],
    plan: Plan,
    workspace: Workspace,
    question: RunQuestion,
    limit_bytes: int | None = None,
    ask_fit: AskFit = fit,
) -> Advice:
    """Which of the run's variants to run. `limit_bytes`: a limit on the memory that was predicted or measured.
    `ask_fit` computes what fits. Raises InputError for GPUs that are not known, or a context that the model cannot
    have."""
    commands = run_commands(plan, workspace)
    found = run_candidates(rows, plan.model, limit_bytes, question.tolerance, commands)
    if question.needs_fit:
        found = _placed(found, {row.variant: row for row in rows}, plan, workspace, question, ask_fit)
    return advise(plan.model, found, question.target)


def advise_as_asked(
    rows: Sequence[Record],
    plan: Plan,
    workspace: Workspace,
    given: RunQuestion = NO_QUESTION,
    limit_bytes: int | None = None,
    ask_fit: AskFit = fit,
) -> tuple[Advice, list[str]]:
    """`advise_on_run` for what the run was started with; options that are `given` now replace the earlier ones.

    And lines that say so. If it is no longer known what fits the GPUs of the run, for example because its repository is
    gone, they do not count."""
    question, said = plan.question.overridden(given), plan.question.origin_words(given)
    lines = [said] if said else []
    try:
        return advise_on_run(rows, plan, workspace, question, limit_bytes, ask_fit), lines
    except InputError as error:
        is_new = given.needs_fit and given != plan.question
        if is_new or not question.needs_fit:
            raise
        lines.append(
            f"The run's {question.options['--gpu']} does not count, because what fits cannot be computed: {error}"
        )
        return advise_on_run(rows, plan, workspace, replace(question, gpu=()), limit_bytes), lines


def _placed(
    found: Sequence[Candidate],
    records: Mapping[str, Record],
    plan: Plan,
    workspace: Workspace,
    question: RunQuestion,
    ask_fit: AskFit,
) -> list[Candidate]:
    """The candidates as `sweep fit` places them. Those that it does not know, or that do not fit, get an obstacle.
    Those that have one already are not asked about: their files may be what is missing."""
    devices = parse_devices(question.gpu) if question.gpu else local_devices()
    names = _fit_names(plan, workspace)
    others = _other_repositories(plan)
    # By the type of the cache, and the MODEL that `sweep fit` is asked about
    alike: dict[tuple[str, str], list[str]] = {}
    for one in found:
        if one.variant in names and not one.obstacle:
            own, model = records[one.variant], others.get(one.variant, model_as_typed(plan))
            alike.setdefault((own.kv_type if own.kind == GGUF else "f16", model), []).append(one.variant)
    placed: dict[str, Candidate] = {}
    for (kv_type, model), variants in alike.items():
        cache = KVCache.parse(kv_type)
        options = FitOptions(
            context=question.ctx or plan.settings.ctx,
            kv_type_k=cache.k,
            kv_type_v=cache.v,
            ubatch=plan.settings.ubatch,
            batch=plan.settings.batch,
            projector=any(records[name].projector is not None for name in variants),
            offload="auto" if allows_ram(question.gpu) or not question.gpu else "none",
        )
        report = ask_fit(model, [names[name] for name in variants], devices, options)
        files = {names[name]: file for name, file in variant_files(plan, workspace).items() if name in names}
        known = Measurements(files=files, workspace=workspace.arguments)
        candidates = fit_candidates(report, known, model)
        rows = {row.variant: (row, one) for row, one in zip(report.rows, candidates, strict=True)}
        for name in variants:
            if names[name] in rows:
                placed[name] = _with_place(records[name], *rows[names[name]], report)
    return [_joined(one, placed.get(one.variant)) for one in found]


def _joined(measured: Candidate, placed: Candidate | None) -> Candidate:
    """What was measured of a variant, where it is placed."""
    if placed is None:
        return replace(
            measured, obstacle=measured.obstacle or "is a variant of which `sweep fit` does not know the memory"
        )
    return replace(
        placed,
        model=measured.model,
        variant=measured.variant,
        file_bytes=measured.file_bytes,
        kv_type=measured.kv_type,
        kld=measured.kld,
        tasks=measured.tasks,
        recovery=measured.recovery,
        is_reference=measured.is_reference,
        cache_is_given=measured.cache_is_given,
        obstacle=measured.obstacle or (placed.obstacle if placed.obstacle.startswith("does not fit") else ""),
    )


def _with_place(record: Record, row: FitRow, placed: Candidate, report: FitReport) -> Candidate:
    """The candidate with the speed that was measured, if it was measured where the fit places the variant."""
    speed = figures.reliable_speed(record)
    if speed is None or not _is_measured_there(record, row, report.devices):
        return placed
    return replace(placed, tokens_per_s=speed, speed_is_measured=True)


def _is_measured_there(record: Record, row: FitRow, devices: Sequence[Device]) -> bool:
    """Whether the run measured the variant on the devices of the fit, and with its parts in the same places."""
    settings = record.settings
    gpus = [device for device in devices if device.kind != "cpu"]
    if not gpus or record.device == "cpu":
        return not gpus and record.device == "cpu"
    if not is_this_machine(devices) or record.kind != GGUF:
        return False
    layers, experts = settings.get("gpu_layers"), settings.get("cpu_moe") or 0
    if not isinstance(layers, int):
        return False
    if verdict(row) is Verdict.FITS:
        return layers >= row.n_layers and not experts
    return (min(layers, row.n_layers), experts) == (row.gpu_layers, row.cpu_moe_layers)


def is_this_machine(devices: Sequence[Device]) -> bool:
    """Whether these devices are the GPUs of this machine: as many as it has, each with the same name or only a size."""
    asked = [device for device in devices if device.kind != "cpu"]
    own = [device for device in local_devices() if device.kind != "cpu"]
    if not all(device.simulated for device in asked):
        return True
    same = len(asked) == len(own) > 0
    return same and all(one.name == other.name or one.bandwidth is None for one, other in zip(asked, own, strict=True))


def _fit_names(plan: Plan, workspace: Workspace) -> dict[str, str]:
    """The names by which `sweep fit` knows the run's variants, by variant."""
    exports = {cell.variant: cell.job.quant for cell in plan.cells if isinstance(cell.job, ExportJob)}
    downloads = {cell.job.content: (cell.variant, cell.job) for cell in plan.cells if isinstance(cell.job, DownloadJob)}
    found = {}
    for name in plan.variants:
        projector = split_projector(name)[1]
        suffix = "" if projector is None else f"{MMPROJ}{projector}"
        model = plan.model_of(name) if any(cell.variant == name for cell in plan.cells) else None
        if name in exports:
            found[name] = f"{exports[name]}{suffix}"
        elif model is not None and model.content in downloads:
            first, job = downloads[model.content]  # its file may be deleted, or not here yet
            base = split_projector(split_cache(first)[0])[0]  # the same file of another publisher is downloaded once
            found[name] = f"{name_in_repository(base, job.repository)}{suffix}"
        elif model is not None and model.opener == "gguf":
            found[name] = f"gguf:{model.file.under(workspace.root)}"
        else:
            known = _name_in_fit(name)
            if known is not None:
                found[name] = known
    return found


def _other_repositories(plan: Plan) -> dict[str, str]:
    """The repositories of variants that are files of another one than MODEL, as `sweep fit` takes them."""
    jobs = {cell.job.content: cell.job for cell in plan.cells if isinstance(cell.job, DownloadJob)}
    models = {name: plan.model_of(name) for name in plan.variants}
    found = {name: jobs[model.content] for name, model in models.items() if model is not None and model.content in jobs}
    own = plan.about["model"].removeprefix(HUB).partition("@")[0]
    return {name: f"{HUB}{job.repository}@{job.revision}" for name, job in found.items() if job.repository != own}


def _name_in_fit(name: str) -> str | None:
    try:
        return parse(name).fit_name
    except InputError:  # it names a file that does not exist any more
        return None
