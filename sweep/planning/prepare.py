"""Makes a plan from a request: resolves names, decides settings, and reports mistakes before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converters.errors import InputError
from converters.gguf_repository import GGUFRepository
from converters.llamacpp.load import LoadOptions
from converters.mixes import xl_mixes
from converters.resolver import Need, find_repository, names_repository, open_source
from sweep import devices
from sweep.artefact import Artefact
from sweep.defaults import DEFAULT_CONTEXT
from sweep.fit.fit_report import FitOptions
from sweep.fit.hardware import allows_ram, parse_devices
from sweep.jobs.base import Host
from sweep.jobs.cell import SweepInputs
from sweep.jobs.inputs import Origin
from sweep.jobs.model import opener
from sweep.jobs.projector import ProjectorJob, ProjectorResult, ProjectorSizesJob
from sweep.jobs.registry import TASKS, TEXT, measurement_names
from sweep.jobs.settings import Settings
from sweep.measure.task_options import TaskOptions
from sweep.methods.base import PredictedSize, Variant
from sweep.methods.gguf import quant_sizes
from sweep.methods.published import published_variant, with_publishers
from sweep.methods.registry import method, parse_list, predicted_sizes, with_baselines, with_files
from sweep.methods.torch import SPEECH_FLOAT
from sweep.planning import preset
from sweep.planning.baseline import (
    AUTO,
    FLOAT,
    NEAREST,
    ReferenceFile,
    auto_reference,
    find_reference,
    gpu_layers,
    writable_base_file,
)
from sweep.planning.chat import with_templates
from sweep.planning.effort import extent_of
from sweep.planning.images import sweep_images
from sweep.planning.imatrix import AUTO as IMATRIX_AUTO
from sweep.planning.imatrix import checked, find_imatrix
from sweep.planning.measurements import checked_depths, chosen_measurements, draft_model, measured_alone
from sweep.planning.model import ResolvedModel, published_model, resolve
from sweep.planning.needle import with_needle_files
from sweep.planning.piped_text import is_pipe
from sweep.planning.planner import PlanSpec, make_plan
from sweep.planning.precision import (
    FULL,
    Precision,
    checked_precision,
    chosen_precision,
    rule_alone,
    stop_rule,
    task_stop_rule,
)
from sweep.planning.repository import (
    CHECKPOINT_REFERENCE,
    choose,
    names_of_files,
    published_imatrix,
    published_variants,
)
from sweep.planning.request import Request
from sweep.planning.search import search_order
from sweep.planning.speech import plan_speech
from sweep.planning.stored_tasks import with_task_rule
from sweep.planning.stored_texts import with_stored_texts
from sweep.planning.tasks import require_known, tasks_for
from sweep.planning.texts import FoundText, calibration_text, text_only_warning, texts_for
from sweep.results.plan import Plan, Skipped
from sweep.variant_name import variant_names
from sweep.workspace import Workspace, open_workspace

PUBLISHED = "published"
"""What a sweep over a repository of GGUF files has in place of a preset's name."""


@dataclass(frozen=True)
class Sweep:
    """A plan with what it was made from. `other_texts` are measured beside `text`, both as far as `precision` says.
    `calibration` is the text for int8 recipes. `cannot_run` are the reasons why only the sizes of the plan are of use;
    none, unless the request is a dry run. `search_order`: see PlanSpec. `published`: the variants that the model has,
    measured or not, if it is a repository of GGUF files. `one_by_one`: each file is made when its turn comes."""

    plan: Plan
    request: Request
    model: ResolvedModel
    origin: Origin
    variants: tuple[Variant, ...]
    inputs: SweepInputs
    workspace: Workspace
    text: FoundText | None
    other_texts: tuple[FoundText, ...]
    precision: Precision
    calibration: FoundText | None = None
    cannot_run: tuple[str, ...] = ()
    search_order: Mapping[str, Skipped] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    one_by_one: bool = False

    @property
    def piped_texts(self) -> dict[Path, Path]:
        """The files of the texts that came through pipes, by pipe."""
        texts = () if self.text is None else (self.text, *self.other_texts)
        named = zip(self.request.perplexity, texts, strict=False)
        return {pipe: text.file.file.under(self.workspace.root) for pipe, text in named if is_pipe(pipe)}


def prepare(request: Request, say: Callable[[str], None], host: Host) -> Sweep:
    """Plan a sweep. Nothing is written except the workspace's folder. Raises InputError for any bad input."""
    chosen = preset.load(request.preset)
    parse_devices(request.gpu)  # a wrong name is an error before anything is downloaded
    checked_precision(request.precision or FULL, "--precision")
    effort = request.effort or chosen.effort
    limits = (request.limit, extent_of(request.effort).limit, chosen.limit, extent_of(effort).limit)
    precisions = (request.precision, extent_of(request.effort).precision, chosen.precision, extent_of(effort).precision)
    request = replace(
        request,
        tasks=request.tasks or chosen.tasks,
        limit=next((limit for limit in limits if limit is not None), None),
        effort=effort,
        precision=next((one for one in precisions if one is not None), None),
        ctx=request.ctx or chosen.ctx,
        min_tps=request.min_tps or chosen.target.min_tps,
        max_kld=request.max_kld or chosen.target.max_kld,
        min_recovery=request.min_recovery or chosen.target.min_recovery,
    )
    measure = chosen_measurements(request, chosen.measure or measurement_names())
    require_known(request.tasks, request.task_data)
    if request.audio is not None:
        return _prepare_speech(request, chosen, say, host)
    repository = find_repository(request.model, say)
    if repository is not None:
        return _prepare_published(request, repository, chosen, say, host, measure)
    automatic = request.reference == AUTO
    reference = find_reference(chosen.reference if automatic else request.reference or chosen.reference)
    file = reference if isinstance(reference, ReferenceFile) else None
    _require_text(file, measure)
    published = _published(request, say, host)
    parsed = _parse_variants(request, _variants(chosen, request, reference), published)
    if isinstance(reference, str):
        _require_baseline(reference, parsed)
    model = resolve(request.model, say, planned=request.dry_run, unchanged=request.requantize, is_repository=False)
    if model.is_quantized:
        say(f"{model.name} is already quantized: variants are compared with this file, not with what it was made of")
    _say_what_is_untried(model, parsed, say)
    if request.window is None and file is None:
        request = replace(request, window=_preset_window(chosen, model, say))
    layers, exported = request.ngl, parsed[0].exported_quant
    needs_placement = layers is None and devices.placement().gpu_layers and exported is not None and file is None
    if automatic or needs_placement:
        quants = [FLOAT, NEAREST] if automatic else [str(exported)]
        reference, layers = _place_reference(quants, model, request, host)
        parsed = _parse_variants(request, _variants(chosen, request, reference), published)
    return _plan(request, model, parsed, chosen.name, say, host, measure, file=file, reference_layers=layers)


def _prepare_speech(request: Request, chosen: preset.Preset, say: Callable[[str], None], host: Host) -> Sweep:
    """Plan a sweep over a speech model. Its reference is the float model. Raises InputError, MissingRuntime."""
    if request.reference not in (None, AUTO, SPEECH_FLOAT):
        raise InputError(
            f"--reference {request.reference}: variants of speech models are compared with {SPEECH_FLOAT}; leave it out"
        )
    names = [SPEECH_FLOAT, *_variants(chosen, replace(request, reference=None), SPEECH_FLOAT)]
    parsed = _parse_variants(request, list(dict.fromkeys(names)), single=True)
    plan = plan_speech(request, parsed, chosen.name, say, host)
    workspace = open_workspace(request.workspace)
    return Sweep(
        make_plan(plan.spec), request, plan.model, plan.inputs.origin, plan.spec.variants, plan.inputs, workspace,
        None, (), Precision(FULL),
    )  # fmt: skip


def _require_text(file: ReferenceFile | None, measure: Sequence[str]) -> None:
    """Raises InputError if variants would be compared with a file on a text that is not measured."""
    if file is not None and TEXT not in measure:
        raise InputError(
            f"--reference {file.path}: variants are compared with it on its text, which --measure leaves out; add text"
        )


def _prepare_published(
    request: Request,
    repository: GGUFRepository,
    chosen: preset.Preset,
    say: Callable[[str], None],
    host: Host,
    measure: tuple[str, ...],
) -> Sweep:
    """Plan a sweep over files that somebody published; the variants of the preset do not apply. Raises InputError."""
    choice = choose(repository, request, say, host.run_job)
    repository = choice.repository
    for line in choice.notes:
        say(line)
    _require_text(choice.reference_file, measure)
    model = choice.checkpoint or published_model(repository)
    if request.window is None and choice.reference_file is None:
        request = replace(request, window=_preset_window(chosen, model, say))
    layers = request.ngl
    if layers is None and choice.reference_bytes is not None:
        layers = gpu_layers(choice.reference_bytes, model.layers, devices.memory())
    elif layers is None and choice.reference == CHECKPOINT_REFERENCE:
        _, layers = _place_reference([FLOAT], model, request, host)
    makes = choice.weights is not None or choice.checkpoint is not None
    if makes and request.imatrix is None and any(variant.uses_imatrix for variant in choice.variants):
        request = replace(request, imatrix=published_imatrix(repository, say))
    about = {"id": repository.id, "revision": repository.revision, "notes": list(choice.notes)}
    about["reference"] = choice.reason
    with names_of_files(repository):
        sweep = _plan(
            request,
            model,
            choice.variants,
            PUBLISHED,
            say,
            host,
            measure,
            file=choice.reference_file,
            reference_layers=layers,
            repository=about,
            weights=None if choice.weights is None else published_variant(repository, choice.weights),
        )
    return replace(sweep, published=tuple(repository.variant(file) for file in repository.files))


def prepare_single(request: Request, say: Callable[[str], None], host: Host) -> Sweep:
    """Plan the measurement of one variant: a GGUF file, or a model at one quant (BF16 by default).

    See `measured_alone` for what is measured. Raises InputError.
    """
    is_file = Path(request.model).suffix == ".gguf"
    rule_alone(Precision(request.precision or FULL))  # a mistake is an error before anything is downloaded
    if is_file and request.quant is not None:
        raise InputError(f"{request.model}: a GGUF file is measured as it is; --quant is for checkpoints")
    parsed = _parse_variants(
        request, [_file_variant(request.model) if is_file else request.quant or FLOAT], single=True
    )
    measure = chosen_measurements(request, measured_alone(request))
    require_known(request.tasks, request.task_data)
    model = resolve(request.model, say, planned=request.dry_run, unchanged=True)
    if request.write_base is not None and TEXT not in measure:
        raise InputError("--write-base writes the model's log-probabilities of a text; give one with --perplexity FILE")
    if request.write_base is not None and not request.kv_type.is_default:
        raise InputError(
            "--write-base: what others are compared with is measured with an f16 cache; leave --kv-type out"
        )
    if request.write_base is not None and request.precision not in (None, FULL):
        raise InputError(
            f"--write-base: llama.cpp's base files have all windows of a text in its order; leave --precision "
            f"{request.precision} out"
        )
    if request.write_base is not None and request.stride is not None:
        raise InputError("--write-base: llama.cpp's base files have windows end to end; leave --stride out")
    return _plan(request, model, parsed, "eval", say, host, measure, single=True)


def variant_sizes(sweep: Sweep, host: Host) -> dict[str, PredictedSize]:
    """The predicted sizes of the variants, by name, where they are known. Raises InputError, MissingRuntime."""
    imatrix, settings = sweep.plan.about["imatrix"] is not None, sweep.plan.settings
    sizes = predicted_sizes(sweep.variants, sweep.origin, settings, imatrix, host.run_job)
    if not settings.kv_cache.is_default and not sweep.inputs.single:
        reference = [variant for variant in sweep.variants if variant.name == sweep.plan.reference]
        own = replace(settings, kv_type=Settings.kv_type)
        sizes |= predicted_sizes(reference, sweep.origin, own, imatrix, host.run_job)
    return sizes


def projector_sizes(sweep: Sweep, host: Host) -> dict[str, ProjectorResult]:
    """The predicted sizes of the projector files of the sweep, by the keys of their cells. Raises InputError,
    MissingRuntime."""
    jobs = {cell.key: cell.job for cell in sweep.plan.cells if isinstance(cell.job, ProjectorJob)}
    root = sweep.workspace.root
    files = {key: (job.header or job.file).under(root) for key, job in jobs.items() if job.source is None}
    names = {key: str(files[key]) if key in files else job.quant for key, job in jobs.items()}
    if not names:
        return {}
    job = ProjectorSizesJob(sweep.origin.source.name, sweep.origin.name, tuple(sorted(set(names.values()))))
    sizes = host.run_job(job).sizes
    return {key: sizes[name] for key, name in names.items()}


def _file_variant(model: str) -> str:
    """The variant's name for a GGUF file, local or on the hub."""
    return model if model.startswith("hub:") else f"gguf:{model}"


def _published(request: Request, say: Callable[[str], None], host: Host) -> dict[str, list[Variant]]:
    """The variants of repositories of GGUF files in --variants, by the name of the repository there."""
    names = variant_names((request.variants or "").removeprefix("="))
    return {name: published_variants(name, request, say, host.run_job) for name in names if names_repository(name)}


def _parse_variants(
    request: Request, names: list[str], published: Mapping[str, list[Variant]] | None = None, *, single: bool = False
) -> list[Variant]:
    """The variants of these names, of which some stand for `published` ones, and, unless `single`, the baselines of
    their methods."""
    published = published or {}
    parsed = parse_list([name for name in names if name not in published])
    parsed = with_publishers([*parsed, *(variant for name in names for variant in published.get(name, ()))])
    if not single:
        parsed = with_baselines(parsed)
    if request.imatrix is None and not request.dry_run:
        for variant in parsed:
            variant.require_imatrix()
    if request.imatrix is not None and all(variant.baseline is not None for variant in parsed):
        raise InputError(f"--imatrix {request.imatrix}: only GGUF quants use it, and the sweep has none; leave it out")
    return parsed


def _require_baseline(reference: str, parsed: Sequence[Variant]) -> None:
    """Raises InputError if `reference` cannot be the reference of `parsed`, because their methods have baselines."""
    baseline = method(reference).baseline
    if baseline is not None and reference != baseline:
        raise InputError(
            f"--reference {reference}: variants that torch runs are compared with {baseline}; leave --reference out"
        )
    if baseline is not None and any(variant.baseline != baseline for variant in parsed):
        raise InputError(
            f"--reference {reference}: GGUF variants cannot be compared with it; name the others with --variants =..."
        )


def _plan(
    request: Request,
    model: ResolvedModel,
    parsed: Sequence[Variant],
    preset_name: str,
    say: Callable[[str], None],
    host: Host,
    measure: tuple[str, ...],
    *,
    file: ReferenceFile | None = None,
    reference_layers: int | None = None,
    single: bool = False,
    repository: Mapping[str, Any] | None = None,
    weights: Variant | None = None,
) -> Sweep:
    """The first variant is the reference, unless the reference is a `file` or only a `single` variant is measured.

    `measure` are the names of the measurements, `repository` is what reports say of the repository that the model is,
    `weights` the file of it that quants are made from.
    """
    collects = request.imatrix == IMATRIX_AUTO or not any(variant.accepts_calibration for variant in parsed)
    imatrix = find_imatrix(
        request.imatrix, request.calibration if collects else None, model.builtin, request.parse_special
    )
    if imatrix is not None:
        source = open_source(model.path, model.name, requantize=True, need=Need.PLAN)
        imatrix = checked(imatrix, source, say)
    variants = with_files(parsed, say, download=not request.dry_run)
    workspace = open_workspace(request.workspace)
    # The user's variants are checked before their baseline, so that an error names them
    for kind in reversed(dict.fromkeys(type(variant) for variant in variants)):
        kind.require_model([variant for variant in variants if type(variant) is kind], model.path)
    read = _calibration(request, model, parsed, workspace)
    texts = texts_for(model, request.perplexity, request.parse_special, workspace.root) if TEXT in measure else ()
    text, others = texts[0] if texts else None, texts[1:]
    if others and file is not None:
        raise InputError(
            f"--perplexity: {file.name} has the log-probabilities of one text, so {others[0].name} cannot be compared "
            "with it; give one text, or leave --reference out"
        )
    notes = [found.note for found in (*texts, read) if found is not None]
    for note in dict.fromkeys([*notes, text_only_warning(read, model.path)]):
        if note is not None and (imatrix is None or note not in imatrix.messages):
            say(note)
    origin = Origin(model.name, Artefact(str(model.path)), model.fingerprint)
    extent = extent_of(request.effort)
    chosen = request.tasks if TASKS in measure else ("none",)
    folder = workspace.root / "tasks" / model.fingerprint[:16]
    chosen = with_needle_files(chosen, model, origin, folder, host.run_job)
    tasks = tasks_for(model, chosen, _task_options(request, model, variants), request.task_data, extent.all_items)
    if text is None and not tasks and set(measure) <= {TEXT, TASKS}:
        raise InputError("there is nothing to measure: --measure names only tasks, and there are none")
    settings = _settings(request, model, file, measures_text=text is not None)
    if single:
        precision = Precision(request.precision or FULL)
        rule = rule_alone(precision)
    else:
        precision = chosen_precision(request.precision, is_builtin=model.builtin is not None, has_file=file is not None)
        rule = stop_rule(precision, request, variants, file)
    inputs = SweepInputs(
        origin=origin,
        settings=settings,
        resources=host.resources({opener(variant.opener).engine for variant in variants} | {"llama.cpp"}),
        folder=f"artefacts/{model.fingerprint[:16]}",
        text=None if text is None else text.file,
        tasks=tasks,
        single=single,
        base_file=None if request.write_base is None else Artefact.of(writable_base_file(request.write_base)),
        calibration=None if read is None else read.file,
        windows=None if file is not None else request.windows or extent.windows(settings.window),
        stop_rule=rule,
        other_texts=tuple(one.file for one in others),
        images=sweep_images(request, model, variants, tasks),
        measure=() if set(measure) == set(measurement_names()) else measure,
        speed_seconds=request.speed_seconds or extent.speed_seconds,
        depths=checked_depths(request.depth, model),
        draft=draft_model(request.draft, settings),
    )
    if weights is not None:
        inputs = replace(inputs, origin=weights.as_origin(inputs))
    reference = variants[0].name if file is None else file.name
    _check_cache(request, variants, None if single else reference, say)
    skipped, placed = _fitted(request, model, variants, inputs, say, reference, host)
    order = {} if single else search_order(request, variants, inputs, imatrix is not None, reference, host)
    spec = PlanSpec(
        model,
        tuple(variants),
        reference,
        inputs,
        preset_name,
        imatrix,
        file,
        reference_layers,
        skipped,
        placed,
        repository,
        request.question,
        order,
    )
    spec, precision = with_stored_texts(spec, precision, workspace)
    if not (single or precision.is_full):
        spec = with_task_rule(spec, task_stop_rule(variants, tasks), workspace)
    reasons = _cannot_run(request, model, parsed)
    return Sweep(
        make_plan(spec), request, model, inputs.origin, spec.variants, spec.inputs, workspace, text, others, precision,
        read, reasons, order,
    )  # fmt: skip


def _say_what_is_untried(model: ResolvedModel, parsed: Sequence[Variant], say: Callable[[str], None]) -> None:
    """Say which variants were chosen for other families than the model's."""
    mixes = [variant.name for variant in parsed if variant.exported_quant in xl_mixes()]
    if mixes and model.foreign is not None:
        say(
            f"{', '.join(mixes)}: mixes that were chosen for Qwen models; {model.name} is a model of the architecture "
            f"{model.foreign}, for which they were not tried"
        )


def _check_cache(
    request: Request, variants: Sequence[Variant], reference: str | None, say: Callable[[str], None]
) -> None:
    """Say which variants --kv-type does not change. Raises InputError if it changes none. `reference`: the variant or
    file that others are compared with; None if there is none."""
    if request.kv_type.is_default:
        return
    option = f"--kv-type {request.kv_type}"
    others = [one.name for one in variants if "kv_type" not in opener(one.opener).changes_results]
    if all(one.name in (*others, reference) for one in variants):
        has_reference = any(one.name not in others for one in variants)
        kept = f"; the reference {reference} keeps an f16 cache" if has_reference else ""
        raise InputError(f"{option}: no variant would have this cache: it is for those that llama.cpp runs{kept}")
    if others:
        say(f"{option} is for variants that llama.cpp runs; it does not change {', '.join(others)}")


def _cannot_run(request: Request, model: ResolvedModel, variants: Sequence[Variant]) -> tuple[str, ...]:
    """Why the plan of a dry run cannot be run: `resolve` and `_parse_variants` reject the same without --dry-run."""
    found = [] if model.only_sizes is None else [model.only_sizes]
    for variant in variants if request.imatrix is None else ():
        try:
            variant.require_imatrix()
        except InputError as error:
            found.append(str(error))
            break  # a matrix for one is a matrix for all
    return tuple(found)


def _calibration(
    request: Request, model: ResolvedModel, parsed: Sequence[Variant], workspace: Workspace
) -> FoundText | None:
    """The text that int8 recipes are calibrated with; None if no recipe needs one. Raises InputError."""
    if not any(variant.baseline is not None for variant in parsed):
        return None
    chosen = None if request.calibration is None else str(request.calibration)
    needed = any(variant.needs_calibration for variant in parsed)
    if not (chosen or needed):
        return None
    text = calibration_text(
        chosen, model.builtin, request.parse_special, workspace=workspace.root, task_data=request.task_data
    )
    return text if needed else None


def _settings(request: Request, model: ResolvedModel, file: ReferenceFile | None, *, measures_text: bool) -> Settings:
    window = _window(request.window, file, model, measures_text=measures_text)
    return Settings(
        window=window,
        stride=_stride(request.stride if file is None else file.stride(request.stride), window),
        ctx=_context(request.ctx, model),
        kv_type=str(request.kv_type),
        gpu_layers=devices.placement().gpu_layers if request.ngl is None else request.ngl,
        cpu_moe=request.n_cpu_moe,
        tensor_split=request.tensor_split,
    )


def _fitted(
    request: Request,
    model: ResolvedModel,
    variants: Sequence[Variant],
    inputs: SweepInputs,
    say: Callable[[str], None],
    reference: str,
    host: Host,
) -> tuple[dict[str, Skipped], Mapping[str, LoadOptions]]:
    """The variants that do not fit on --gpu, nor run partly in the RAM that it names; each is reported. A variant that
    others are compared with is not skipped.

    And the places of those that are not whole on one GPU: they are measured as they will run, if this machine has as
    many GPUs, and no option places them.
    """
    if not request.gpu:
        return {}, {}
    from sweep.planning.fit import fit_variants  # loads llama.cpp, which only this option needs

    settings = inputs.settings
    options = FitOptions(
        projector=inputs.images is not None,
        context=settings.ctx,
        kv_type_k=settings.kv_cache.k,
        kv_type_v=settings.kv_cache.v,
        ubatch=settings.ubatch,
        batch=settings.batch,
        offload="auto" if allows_ram(request.gpu) else "none",
    )
    asked = parse_devices(request.gpu)
    found = fit_variants(str(model.path), variants, asked, options, host.run_job)
    large = found.too_large
    needed = {reference, *(variant.baseline for variant in variants)}
    for name, why in large.items():
        action = "it is measured, because other variants are compared with it" if name in needed else "skipped"
        say(f"{name} {why.reason}; {action}")
    is_placed = request.ngl is not None or request.n_cpu_moe or request.tensor_split
    same_gpus = len(devices.gpus()) == sum(device.kind != "cpu" for device in asked)
    skipped = {name: why for name, why in large.items() if name not in needed}
    return skipped, found.placed if same_gpus and not is_placed else {}


def _task_options(request: Request, model: ResolvedModel, variants: Sequence[Variant]) -> TaskOptions:
    if request.max_gen_toks is not None and request.max_gen_toks >= model.context:
        raise InputError(
            f"--max-gen-toks {request.max_gen_toks} leaves no room for a question in the {model.context} tokens that "
            f"{model.name} was trained for"
        )
    chat_template = request.thinking is not None if request.chat_template is None else request.chat_template
    options = TaskOptions(
        limit=request.limit,
        num_fewshot=request.num_fewshot,
        chat_template=chat_template,
        thinking=request.thinking,
        thinking_scoring=request.thinking_scoring,
        max_gen_toks=request.max_gen_toks,
        allow_code=request.allow_code,
    )
    files = [variant.file_path for variant in variants]
    return with_templates(options, [model.path, *(file for file in files if file is not None)])


def _context(option: int | None, model: ResolvedModel) -> int:
    if option is not None and option > model.context:
        raise InputError(f"--ctx {option} is more than the {model.context} tokens that {model.name} was trained for")
    return option or min(DEFAULT_CONTEXT, model.context)


def _preset_window(chosen: preset.Preset, model: ResolvedModel, say: Callable[[str], None]) -> int | None:
    """The preset's window; None, which means the default, if it names none or one that the model has no context for."""
    if chosen.window is None or chosen.window <= model.context:
        return chosen.window
    say(
        f"preset {chosen.name}: its window of {chosen.window} tokens is more than the {model.context} tokens that "
        f"{model.name} was trained for; the window has {Settings.window} tokens"
    )
    return None


def _window(option: int | None, file: ReferenceFile | None, model: ResolvedModel, *, measures_text: bool) -> int:
    window = (option if file is None else file.window(option)) or Settings.window
    if window > model.context and (measures_text or option is not None):
        if option is not None:
            subject = f"--window {option}"
        elif file is not None:
            subject = f"{file.path}: its window of {window} tokens"
        else:
            subject = f"the window of {window} tokens, which --window can make smaller,"
        raise InputError(f"{subject} is more than the {model.context} tokens that {model.name} was trained for")
    return window


def _stride(option: int | None, window: int) -> int | None:
    if option is not None and option >= window:
        raise InputError(
            f"--stride {option}: it must be smaller than the window of {window} tokens, so that every scored token has "
            "context"
        )
    return option


def _variants(chosen: preset.Preset, request: Request, reference: ReferenceFile | str) -> list[str]:
    """The names of the variants: the reference, if it is a variant, the preset's variants, and those of --variants.

    `--variants =A,B` means only A and B, with the reference. If --reference names another reference than the preset's,
    the preset's reference is left out, unless --variants names it. If all of `=A,B` have baselines of their methods,
    the preset's reference is left out too.
    """
    option = request.variants
    first = [] if isinstance(reference, ReferenceFile) else [reference]
    listed = [name for name in chosen.variants if not first or name != chosen.reference]
    own = [] if option is None else list(variant_names(option.removeprefix("=")))
    if option is not None and option.startswith("="):
        have_baselines = bool(own) and all(method(name).baseline is not None for name in own)
        return own if have_baselines and request.reference is None else [*first, *own]
    return [*first, *listed, *own]


def _place_reference(quants: list[str], model: ResolvedModel, request: Request, host: Host) -> tuple[str, int]:
    """The quant to compare with (the only one of `quants`, or the choice of auto between two), and the number of its
    layers that go to a GPU."""
    settings = Settings(ctx=_context(request.ctx, model))
    origin = Origin(model.name, Artefact(str(model.path)), model.fingerprint)
    known = quant_sizes(quants, origin, settings, imatrix=False, run_job=host.run_job)
    memory = devices.memory()
    needed = {quant: known[quant].memory_bytes for quant in quants}
    chosen = quants[0] if len(quants) == 1 else auto_reference(needed[FLOAT], memory)
    return chosen, gpu_layers(needed[chosen], model.layers, memory)
