"""The commands that run the variants of a finished run, and that make the files that were not kept."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sweep.analysis.run_candidates import RunCommands
from sweep.jobs.export import ExportJob
from sweep.jobs.model import MeasuredModel
from sweep.results.plan import Plan
from sweep.workspace import Workspace


def run_commands(plan: Plan, workspace: Workspace) -> dict[str, RunCommands]:
    """By variant. A variant that llama.cpp cannot run has none."""
    found = {}
    for name in plan.variants:
        model = plan.model_of(name)
        export = next((cell.job for cell in plan.cells_of(name) if isinstance(cell.job, ExportJob)), None)
        own = model if any(cell.variant == name for cell in plan.cells) else None
        if own is not None and own.opener == "gguf":
            found[name] = _commands(own, export, workspace.root)
    return found


def _commands(model: MeasuredModel, export: ExportJob | None, root: Path) -> RunCommands:
    file = model.file.under(root)
    if file.exists() or export is None:
        return RunCommands(_server(_relative(file), model))
    source = _relative(export.source.under(root))
    get = ["sweep", "convert", source, "--to", export.quant]
    get += ["--imatrix", _relative(export.imatrix.under(root))] if export.imatrix is not None else []
    return RunCommands(_server(f"{export.name}-{export.quant}.gguf", model), shlex.join(get))


def _server(file: str, model: MeasuredModel) -> str:
    settings = model.settings
    words = ["llama-server", "-m", f"./{file}" if file.startswith("-") else file, "-c", str(settings.ctx)]
    words += ["-ngl", str(settings.gpu_layers)] if settings.gpu_layers else []
    words += ["-ncmoe", str(settings.cpu_moe)] if settings.cpu_moe else []
    words += ["-ts", ",".join(f"{share:g}" for share in settings.tensor_split)] if settings.tensor_split else []
    words += ["-ctk", settings.kv_type, "-ctv", settings.kv_type] if settings.kv_type != "f16" else []
    return shlex.join(words)


def _relative(path: Path) -> str:
    """The path as it is typed in the current directory."""
    here = Path(os.getcwd())
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
