"""From a request to a plan: its names made out, its settings settled, its mistakes told before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converters.errors import InputError
from sweep import devices
from sweep.artefact import Artefact
from sweep.defaults import DEFAULT_CONTEXT
from sweep.fit.fit_report import FitOptions
from sweep.fit.hardware import devices_called
from sweep.jobs.base import Host
from sweep.jobs.cell import Asked
from sweep.jobs.given import Origin
from sweep.jobs.model import opener
from sweep.jobs.settings import Settings
from sweep.measure.task_options import TaskOptions
from sweep.methods.base import PlannedSize, Variant
from sweep.methods.gguf import quant_sizes
from sweep.methods.registry import fetched, method, parse_list, predicted, with_baselines
from sweep.planning import preset
from sweep.planning.baseline import (
    AUTO,
    FLOAT,
    NEAREST,
    ReferenceFile,
    automatic,
    find_reference,
    gpu_layers,
    writable_base_file,
)
from sweep.planning.calibration import AUTO as IMATRIX_AUTO
from sweep.planning.calibration import calibration, tell
from sweep.planning.inputs import FoundText, calibration_text, text_for
from sweep.planning.model import ResolvedModel, resolve
from sweep.planning.planner import Wanted, make_plan
from sweep.planning.request import Request
from sweep.planning.tasks import tasks_for
from sweep.results.plan import Plan, TooLarge
from sweep.workspace import Workspace, open_workspace


@dataclass(frozen=True)
class Sweep:
    """A plan with what it was made from. `calibration` is the text that recipes of torch read."""

    plan: Plan
    request: Request
    model: ResolvedModel
    origin: Origin
    variants: tuple[Variant, ...]
    asked: Asked
    workspace: Workspace
    text: FoundText | None
    calibration: FoundText | None = None


def prepare(request: Request, say: Callable[[str], None], host: Host) -> Sweep:
    """Resolve and plan. Nothing is written but the workspace's folder. Raises InputError for any bad input."""
    chosen = preset.load(request.preset)
    devices_called(request.gpu)  # a name that is none is told before anything is fetched
    request = replace(
        request,
        tasks=request.tasks or chosen.tasks,
        limit=request.limit or chosen.limit,
        ctx=request.ctx or chosen.ctx,
    )
    fitting = request.reference == AUTO
    reference = find_reference(chosen.reference if fitting else request.reference or chosen.reference)
    file = reference if isinstance(reference, ReferenceFile) else None
    parsed = _parsed(request, _variants(chosen, request, reference))
    if isinstance(reference, str):
        _require_baseline(reference, parsed)
    model = resolve(request.model, say, planned=request.dry_run)
    layers, exported = request.ngl, parsed[0].exported
    unplaced = layers is None and devices.placement().gpu_layers and exported is not None and file is None
    if fitting or unplaced:
        quants = [FLOAT, NEAREST] if fitting else [str(exported)]
        reference, layers = _placed(quants, model, request, host)
        parsed = _parsed(request, _variants(chosen, request, reference))
    return _planned(request, model, parsed, chosen.name, say, host, file=file, reference_layers=layers)


def prepare_single(request: Request, say: Callable[[str], None], host: Host) -> Sweep:
    """Resolve and plan the measuring of one thing as it is: a GGUF file, or a model at one quant (BF16 by default).

    What the request names is measured, everything where it names neither text nor tasks. Raises InputError.
    """
    is_file = Path(request.model).suffix == ".gguf"
    if is_file and request.quant is not None:
        raise InputError(f"{request.model}: a GGUF file is measured as it is; --quant is for checkpoints")
    parsed = _parsed(request, [_as_it_is(request.model) if is_file else request.quant or FLOAT], alone=True)
    everything = request.perplexity is None and request.tasks is None
    if not everything:
        request = replace(request, tasks=request.tasks or ("none",))
    model = resolve(request.model, say, planned=request.dry_run, as_it_is=True)
    measures_text = everything or request.perplexity is not None
    if request.write_base is not None and not measures_text:
        raise InputError("--write-base writes what the model makes of a text; give one with --perplexity FILE")
    if request.write_base is not None and request.stride is not None:
        raise InputError("--write-base: llama.cpp's base files are of windows end to end; leave --stride out")
    return _planned(request, model, parsed, "eval", say, host, measures_text=measures_text, alone=True)


def variant_sizes(sweep: Sweep, host: Host) -> dict[str, PlannedSize]:
    """What each variant takes that is to be made, by name. Raises InputError, MissingRuntime."""
    imatrix = sweep.plan.about["imatrix"] is not None
    return predicted(sweep.variants, sweep.origin, sweep.plan.settings, imatrix, host.ask)


def _as_it_is(model: str) -> str:
    """What the variant is called that a GGUF file is, here or on the hub."""
    return model if model.startswith("hub:") else f"gguf:{model}"


def _parsed(request: Request, names: list[str], *, alone: bool = False) -> list[Variant]:
    """The variants of these names and, unless one stands `alone`, the baselines of their methods."""
    parsed = parse_list(names) if alone else with_baselines(parse_list(names))
    if request.imatrix is None and not request.dry_run:
        for variant in parsed:
            variant.require_importance()
    if request.imatrix is not None and all(variant.baseline is not None for variant in parsed):
        raise InputError(f"--imatrix {request.imatrix}: it weighs GGUF quants, and none is asked for")
    return parsed


def _require_baseline(reference: str, parsed: Sequence[Variant]) -> None:
    """Raises InputError for a reference that cannot be one of all `parsed`, because their methods have baselines."""
    baseline = method(reference).baseline
    if baseline is not None and reference != baseline:
        raise InputError(f"--reference {reference}: what torch runs is compared with {baseline}; leave it out")
    if baseline is not None and any(variant.baseline != baseline for variant in parsed):
        raise InputError(
            f"--reference {reference}: GGUF variants cannot be compared with it; leave them out by --variants =..."
        )


def _planned(
    request: Request,
    model: ResolvedModel,
    parsed: Sequence[Variant],
    preset_name: str,
    say: Callable[[str], None],
    host: Host,
    *,
    measures_text: bool = True,
    file: ReferenceFile | None = None,
    reference_layers: int | None = None,
    alone: bool = False,
) -> Sweep:
    """The first variant is the reference, unless that is a `file` or it stands `alone`."""
    collects = request.imatrix == IMATRIX_AUTO or not any(variant.calibrates for variant in parsed)
    given = calibration(request.imatrix, request.calibration if collects else None, model.builtin)
    if given is not None:
        tell(given, say)
    variants = fetched(parsed, say, download=not request.dry_run)
    workspace = open_workspace(request.workspace)
    for kind in reversed(dict.fromkeys(type(variant) for variant in variants)):  # what is asked for before its baseline
        kind.require_model([variant for variant in variants if type(variant) is kind], model.path)
    read = _calibration(request, model, parsed)
    text = text_for(model, request.perplexity) if measures_text else None
    origin = Origin(model.name, Artefact(str(model.path)), model.fingerprint)
    asked = Asked(
        origin=origin,
        settings=_settings(request, model, file, measures_text=text is not None),
        where=host.where({opener(variant.opener).engine for variant in variants} | {"llama.cpp"}),
        folder=f"artefacts/{model.fingerprint[:16]}",
        text=None if text is None else text.file,
        tasks=tasks_for(model, request.tasks, _task_options(request), request.task_data),
        alone=alone,
        base_file=None if request.write_base is None else Artefact.of(writable_base_file(request.write_base)),
        calibration=None if read is None else read.file,
    )
    reference = variants[0].name if file is None else file.name
    skipped = _skipped(request, model, variants, asked.settings, say, reference, host)
    wanted = Wanted(model, tuple(variants), reference, asked, preset_name, given, file, reference_layers, skipped)
    return Sweep(make_plan(wanted), request, model, origin, wanted.variants, asked, workspace, text, read)


def _calibration(request: Request, model: ResolvedModel, parsed: Sequence[Variant]) -> FoundText | None:
    """The text that recipes are calibrated with; None where none of them needs one. Raises InputError."""
    if not any(variant.baseline is not None for variant in parsed):
        return None
    chosen = None if request.calibration is None else str(request.calibration)
    needed = any(variant.needs_calibration for variant in parsed)
    text = calibration_text(chosen, model.builtin) if chosen or needed else None
    return text if needed else None


def _settings(request: Request, model: ResolvedModel, file: ReferenceFile | None, *, measures_text: bool) -> Settings:
    window = _window(request.window, file, model, measures_text=measures_text)
    return Settings(
        window=window,
        stride=_stride(request.stride if file is None else file.stride(request.stride), window),
        ctx=_context(request.ctx, model),
        gpu_layers=devices.placement().gpu_layers if request.ngl is None else request.ngl,
        cpu_moe=request.n_cpu_moe,
        tensor_split=request.tensor_split,
    )


def _skipped(
    request: Request,
    model: ResolvedModel,
    variants: Sequence[Variant],
    settings: Settings,
    say: Callable[[str], None],
    reference: str,
    host: Host,
) -> dict[str, TooLarge]:
    """The variants that --gpu does not hold, each told; what others are compared with is measured all the same."""
    if not request.gpu:
        return {}
    from sweep.planning.fitting import too_large  # asks llama.cpp, which only this option needs

    options = FitOptions(
        context=settings.ctx,
        kv_type_k=settings.kv_type,
        kv_type_v=settings.kv_type,
        ubatch=settings.ubatch,
        batch=settings.batch,
        offload="none",
    )
    found = too_large(str(model.path), variants, devices_called(request.gpu), options, host.ask)
    needed = {reference, *(variant.baseline for variant in variants)}
    for name, why in found.items():
        kept = "measured all the same, because the others are compared with it" if name in needed else "skipped"
        say(f"{name} {why.reason}; {kept}")
    return {name: why for name, why in found.items() if name not in needed}


def _task_options(request: Request) -> TaskOptions:
    return TaskOptions(
        limit=request.limit,
        num_fewshot=request.num_fewshot,
        chat_template=request.thinking is not None if request.chat_template is None else request.chat_template,
        thinking=request.thinking,
        max_gen_toks=request.max_gen_toks,
        allow_code=request.allow_code,
    )


def _context(asked: int | None, model: ResolvedModel) -> int:
    if asked is not None and asked > model.context:
        raise InputError(f"--ctx {asked} is beyond the {model.context} tokens that {model.name} was made for")
    return asked or min(DEFAULT_CONTEXT, model.context)


def _window(asked: int | None, file: ReferenceFile | None, model: ResolvedModel, *, measures_text: bool) -> int:
    window = (asked if file is None else file.window(asked)) or Settings.window
    if window > model.context and (measures_text or asked is not None):
        if asked is not None:
            named = f"--window {asked}"
        elif file is not None:
            named = f"{file.path}: its window of {window} tokens"
        else:
            named = f"the window of {window} tokens, which --window can make smaller,"
        raise InputError(f"{named} is beyond the {model.context} tokens that {model.name} was made for")
    return window


def _stride(asked: int | None, window: int) -> int | None:
    if asked is not None and asked >= window:
        raise InputError(
            f"--stride {asked} leaves nothing to see before it in windows of {window}; choose a smaller one"
        )
    return asked


def _variants(chosen: preset.Preset, request: Request, reference: ReferenceFile | str) -> list[str]:
    """The reference, where it is one, and the preset's variants and those asked for; `=A,B` asks for those alone.

    What another reference takes the place of is left out, unless it is asked for by name; and so is the preset's where
    all that is asked for have baselines of their methods.
    """
    asked = request.variants
    first = [] if isinstance(reference, ReferenceFile) else [reference]
    listed = [name for name in chosen.variants if not first or name != chosen.reference]
    own = [] if asked is None else [name.strip() for name in asked.removeprefix("=").split(",") if name.strip()]
    if asked is not None and asked.startswith("="):
        elsewhere = bool(own) and all(method(name).baseline is not None for name in own)
        return own if elsewhere and request.reference is None else [*first, *own]
    return [*first, *listed, *own]


def _placed(quants: list[str], model: ResolvedModel, request: Request, host: Host) -> tuple[str, int]:
    """Of a quant, or of the two that auto chooses between, the one to compare with, and how much of it goes to a
    GPU."""
    settings = Settings(ctx=_context(request.ctx, model))
    origin = Origin(model.name, Artefact(str(model.path)), model.fingerprint)
    known = quant_sizes(quants, origin, settings, imatrix=False, ask=host.ask)
    memory = devices.memory()
    needed = {quant: known[quant].memory_bytes for quant in quants}
    chosen = quants[0] if len(quants) == 1 else automatic(needed[FLOAT], memory)
    return chosen, gpu_layers(needed[chosen], model.layers, memory)
