"""From a request to a plan: its names made out, its settings settled, its mistakes told before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from converters.errors import InputError
from converters.recipes import recipe, refuse_without_imatrix
from int8.architectures import require_quantizable
from sweep import devices
from sweep.defaults import DEFAULT_CONTEXT
from sweep.execution.keep import Keep
from sweep.fit.fit_report import FitOptions, Misfit
from sweep.fit.hardware import devices_called
from sweep.measure.options import TaskOptions
from sweep.planning import preset, variant
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
from sweep.planning.inputs import Text, calibration_text, text_for
from sweep.planning.model import Model, resolve
from sweep.planning.plan import Plan, make_plan
from sweep.planning.request import Request
from sweep.planning.settings import Settings
from sweep.planning.sizes import sizes
from sweep.planning.tasks import Task, tasks_for
from sweep.planning.torch_cells import TorchSide
from sweep.workspace import Workspace, open_workspace


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
    int8_calibration: Text | None = None


def prepare(request: Request, say: Callable[[str], None]) -> Sweep:
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
    layers = request.ngl
    unplaced = layers is None and devices.placement().gpu_layers and parsed[0].quant is not None and file is None
    if fitting or unplaced:
        reference, layers = _placed([FLOAT, NEAREST] if fitting else [str(parsed[0].quant)], model, request)
        parsed = _parsed(request, _variants(chosen, request, reference))
    return _planned(request, model, parsed, chosen.name, say, file=file, reference_layers=layers)


def prepare_single(request: Request, say: Callable[[str], None]) -> Sweep:
    """Resolve and plan the measuring of one thing as it is: a GGUF file, or a model at one quant (BF16 by default).

    What the request names is measured, everything where it names neither text nor tasks. Raises InputError.
    """
    is_file = Path(request.model).suffix == ".gguf"
    if is_file and request.quant is not None:
        raise InputError(f"{request.model}: a GGUF file is measured as it is; --quant is for checkpoints")
    parsed = _parsed(request, [_as_it_is(request.model) if is_file else request.quant or "BF16"], alone=True)
    everything = request.perplexity is None and request.tasks is None
    if not everything:
        request = replace(request, tasks=request.tasks or ("none",))
    model = resolve(request.model, say, planned=request.dry_run, as_it_is=True)
    measures_text = everything or request.perplexity is not None
    if request.write_base is not None and not measures_text:
        raise InputError("--write-base writes what the model makes of a text; give one with --perplexity FILE")
    if request.write_base is not None and request.stride is not None:
        raise InputError("--write-base: llama.cpp's base files are of windows end to end; leave --stride out")
    return _planned(request, model, parsed, "eval", say, measures_text=measures_text, alone=True)


def _as_it_is(model: str) -> str:
    """What the variant is called that a GGUF file is, here or on the hub."""
    return model if model.startswith("hub:") else f"gguf:{model}"


def _parsed(request: Request, names: list[str], *, alone: bool = False) -> list[variant.Variant]:
    """The variants of these names and, unless one stands `alone`, what those of torch are compared with."""
    parsed = variant.parse_list(names) if alone else variant.with_baseline(variant.parse_list(names))
    if request.imatrix is None and not request.dry_run:
        refuse_without_imatrix([recipe(entry.quant) for entry in parsed if entry.quant is not None])
    if request.imatrix is not None and all(entry.is_torch for entry in parsed):
        raise InputError(f"--imatrix {request.imatrix}: it weighs GGUF quants, and none is asked for")
    return parsed


def _require_baseline(reference: str, parsed: Sequence[variant.Variant]) -> None:
    """Raises InputError for a reference that is of torch and cannot be one of all `parsed`."""
    if variant.kind_of(reference) in ("int8", "fq"):
        raise InputError(
            f"--reference {reference}: what torch runs is compared with {variant.TORCH_FLOAT}; leave it out"
        )
    if reference == variant.TORCH_FLOAT and any(not entry.is_torch for entry in parsed):
        raise InputError(
            f"--reference {reference}: GGUF variants cannot be compared with it; leave them out by --variants =..."
        )


def _planned(
    request: Request,
    model: Model,
    parsed: Sequence[variant.Variant],
    preset_name: str,
    say: Callable[[str], None],
    *,
    measures_text: bool = True,
    file: ReferenceFile | None = None,
    reference_layers: int | None = None,
    alone: bool = False,
) -> Sweep:
    """The first variant is the reference, unless that is a `file` or it stands `alone`."""
    collects = request.imatrix == IMATRIX_AUTO or not any(entry.recipe for entry in parsed)
    given = calibration(request.imatrix, request.calibration if collects else None, model.builtin)
    if given is not None:
        tell(given, say)
    variants = variant.fetched(parsed, say, download=not request.dry_run)
    workspace = open_workspace(request.workspace)
    torch = _torch_side(request, model, parsed, workspace)
    text = text_for(model, request.perplexity, workspace.texts) if measures_text else None
    tasks = tasks_for(model, request.tasks, _task_options(request), request.task_data)
    placement = devices.placement()
    window = _window(request.window, file, model, measures_text=text is not None)
    settings = Settings(
        window=window,
        stride=_stride(request.stride if file is None else file.stride(request.stride), window),
        ctx=_context(request.ctx, model),
        threads=devices.threads(),
        device=placement.device,
        gpu_layers=placement.gpu_layers if request.ngl is None else request.ngl,
        cpu_moe=request.n_cpu_moe,
        tensor_split=request.tensor_split,
    )
    skipped = _skipped(request, model, variants, settings, say, None if file is not None else variants[0].name)
    plan = make_plan(
        workspace,
        model,
        variants,
        variants[0].name if file is None else file.name,
        text,
        tasks,
        settings,
        preset_name,
        given,
        file,
        reference_layers,
        alone,
        None if request.write_base is None else writable_base_file(request.write_base),
        skipped,
        torch,
    )
    int8_calibration = None if torch is None else torch.calibration
    return Sweep(plan, model, tuple(variants), text, tasks, workspace, request.keep, int8_calibration)


def _torch_side(
    request: Request, model: Model, parsed: Sequence[variant.Variant], workspace: Workspace
) -> TorchSide | None:
    """What variants of torch have in common; None where there are none. Raises InputError where the model is not of a
    kind that they can be made of."""
    of_torch = [entry for entry in parsed if entry.is_torch]
    if not of_torch:
        return None
    first = next((entry for entry in of_torch if entry.recipe is not None), of_torch[0])
    if model.path.is_file() and model.path.suffix == ".gguf":
        raise InputError(
            f"{model.path}: {first.name} is made of a Hugging Face checkpoint; give its directory or hub id"
        )
    if model.path.is_dir():
        require_quantizable(model.path)
    engine = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lm-eval"))
    chosen = None if request.calibration is None else str(request.calibration)
    calibrated = any(entry.recipe is not None and entry.recipe.needs_text for entry in of_torch)
    text = calibration_text(chosen, model.builtin, workspace.texts) if chosen or calibrated else None
    return TorchSide(engine, devices.torch_device(), text if calibrated else None)


def _skipped(
    request: Request,
    model: Model,
    variants: Sequence[variant.Variant],
    settings: Settings,
    say: Callable[[str], None],
    reference: str | None,
) -> dict[str, Misfit]:
    """The variants that --gpu does not hold, each told; the reference is measured all the same."""
    if not request.gpu:
        return {}
    from sweep.commands.fit import misfits  # asks llama.cpp, which only this option needs

    options = FitOptions(
        context=settings.ctx,
        kv_type_k=settings.kv_type,
        kv_type_v=settings.kv_type,
        ubatch=settings.ubatch,
        batch=settings.batch,
        offload="none",
    )
    found = misfits(str(model.path), variants, devices_called(request.gpu), options)
    for name, misfit in found.items():
        needed = name in (reference, variant.TORCH_FLOAT)
        kept = "measured all the same, because the others are compared with it" if needed else "skipped"
        say(f"{name} {misfit.reason}; {kept}")
    return {name: misfit for name, misfit in found.items() if name not in (reference, variant.TORCH_FLOAT)}


def _task_options(request: Request) -> TaskOptions:
    return TaskOptions(
        limit=request.limit,
        num_fewshot=request.num_fewshot,
        chat_template=request.thinking is not None if request.chat_template is None else request.chat_template,
        thinking=request.thinking,
        max_gen_toks=request.max_gen_toks,
        allow_code=request.allow_code,
    )


def _context(asked: int | None, model: Model) -> int:
    if asked is not None and asked > model.context:
        raise InputError(f"--ctx {asked} is beyond the {model.context} tokens that {model.name} was made for")
    return asked or min(DEFAULT_CONTEXT, model.context)


def _window(asked: int | None, file: ReferenceFile | None, model: Model, *, measures_text: bool) -> int:
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
    torch runs all that is asked for, for it is compared with torch:BF16.
    """
    asked = request.variants
    first = [] if isinstance(reference, ReferenceFile) else [reference]
    listed = [name for name in chosen.variants if not first or name != chosen.reference]
    own = [] if asked is None else [name.strip() for name in asked.removeprefix("=").split(",") if name.strip()]
    if asked is not None and asked.startswith("="):
        all_torch = bool(own) and all(variant.kind_of(name) != "gguf" for name in own)
        return own if all_torch and request.reference is None else [*first, *own]
    return [*first, *listed, *own]


def _placed(quants: list[str], model: Model, request: Request) -> tuple[str, int]:
    """Of a quant, or of the two that auto chooses between, the one to compare with, and how much of it goes to a
    GPU."""
    settings = asdict(Settings(ctx=_context(request.ctx, model)))
    known = sizes(model, quants, settings, imatrix=False)
    memory = devices.memory()
    needed = {quant: int(known[quant]["memory_bytes"]) for quant in quants}
    chosen = quants[0] if len(quants) == 1 else automatic(needed[FLOAT], memory)
    return chosen, gpu_layers(needed[chosen], model.layers, memory)


def variant_sizes(sweep: Sweep) -> dict[str, dict[str, float]]:
    """File bytes (exact of quants), bits per weight and predicted memory of each variant to be made, from a worker."""
    quants = [entry.quant for entry in sweep.variants if entry.quant is not None]
    settings = sweep.plan.to_json()["settings"]
    torch = {
        entry.name: (entry.kind, None if entry.recipe is None else entry.recipe.to_json())
        for entry in sweep.variants
        if entry.is_torch
    }
    return sizes(sweep.model, quants, settings, imatrix=sweep.plan.about["imatrix"] is not None, torch=torch)
