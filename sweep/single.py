"""One thing measured as it is, with no baseline: a plan of one variant, carried out by sweep.sweeping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from converters.errors import InputError
from converters.recipes import recipe, refuse_without_imatrix
from sweep import devices, variant
from sweep.inputs import text_for
from sweep.model import resolve
from sweep.plan import Settings, make_plan
from sweep.sweeping import Request, Sweep, memory_context, task_options
from sweep.tasks import tasks_for
from sweep.workspace import open_workspace


def prepare_single(request: Request, quant: str | None, say: Callable[[str], None]) -> Sweep:
    """Resolve and plan the measuring of a GGUF file, or of a model at one quant (BF16 by default).

    What the request names is measured, everything where it names neither text nor tasks. Raises InputError.
    """
    is_file = Path(request.model).suffix == ".gguf"
    if is_file and quant is not None:
        raise InputError(f"{request.model}: a GGUF file is measured as it is; --quant is for checkpoints")
    only = variant.parse(f"gguf:{request.model}" if is_file else quant or "BF16")
    if only.quant is not None:
        refuse_without_imatrix([recipe(only.quant)])
    everything = request.perplexity is None and request.tasks is None
    if not everything:
        request = replace(request, tasks=request.tasks or ("none",))
    model = resolve(request.model, say, as_it_is=True)
    workspace = open_workspace(request.workspace)
    measures_text = everything or request.perplexity is not None
    text = text_for(model, request.perplexity, workspace.texts) if measures_text else None
    tasks = tasks_for(model, request.tasks, task_options(request), request.task_data)
    placement = devices.placement()
    settings = Settings(
        ctx=memory_context(request.ctx, model),
        threads=devices.threads(),
        device=placement.device,
        gpu_layers=placement.gpu_layers if request.ngl is None else request.ngl,
        cpu_moe=request.n_cpu_moe,
        tensor_split=request.tensor_split,
    )
    (found,) = variant.fetched([only], say, download=True)
    plan = make_plan(workspace, model, [found], found.name, text, tasks, settings, "eval", alone=True)
    return Sweep(plan, model, (found,), text, tasks, workspace)
