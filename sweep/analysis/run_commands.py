"""The commands that run the variants of a finished run, and that make the files that were not kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converters.plan import projector_name
from converters.shell import join
from sweep.analysis.candidate import Commands
from sweep.fit.server_arguments import ServerSettings, server_words
from sweep.jobs.download import DownloadJob
from sweep.jobs.export import ExportJob
from sweep.jobs.model import MeasuredModel
from sweep.jobs.projector import ProjectorJob
from sweep.results.plan import Plan
from sweep.workspace import Workspace


def run_commands(plan: Plan, workspace: Workspace) -> dict[str, Commands]:
    """By variant. A variant that llama.cpp cannot run has none."""
    found = {}
    exports = {cell.key: cell.job for cell in plan.cells if isinstance(cell.job, ExportJob)}
    downloads = {cell.job.content: cell.job for cell in plan.cells if isinstance(cell.job, DownloadJob)}
    projectors = {cell.variant: cell.job for cell in plan.cells if isinstance(cell.job, ProjectorJob)}
    for name, model in _gguf_models(plan).items():
        path, export = model.file.under(workspace.root), exports.get(model.content)
        file, made = _typed(path), None
        if not path.exists() and model.content in downloads:
            file = downloads[model.content].spec
        elif not path.exists() and export is not None:
            file, made = export.file_name, export
        images, made_projector = _projector(projectors.get(name), downloads, workspace)
        get = "" if made is None and made_projector is None else _convert(made, made_projector, workspace)
        found[name] = Commands(_server(file, model, images), get)
    return found


def _projector(
    job: ProjectorJob | None, downloads: Mapping[str, DownloadJob], workspace: Workspace
) -> tuple[str, ProjectorJob | None]:
    """The projector file of a variant as `server_words` takes it, and the job that makes it if it is not there."""
    if job is None:
        return "", None
    path = job.file.under(workspace.root)
    if not path.exists() and job.content in downloads:
        return downloads[job.content].spec, None
    if path.exists() or job.source is None:
        return _typed(path), None
    return projector_name(job.name, job.quant), job


def variant_files(plan: Plan, workspace: Workspace) -> dict[str, str]:
    """The GGUF files of a run that exist, by variant, as they are typed in the current directory."""
    files = {name: model.file.under(workspace.root) for name, model in _gguf_models(plan).items()}
    return {name: _typed(file) for name, file in files.items() if file.exists()}


def model_as_typed(plan: Plan) -> str:
    """MODEL for another run of the same model: the name of a built-in model, or the path."""
    shown = plan.about["model"]
    return plan.model if shown == f"{plan.model} (built in)" else _typed(Path(shown))


def _gguf_models(plan: Plan) -> dict[str, MeasuredModel]:
    with_cells = {cell.variant for cell in plan.cells}
    models = {name: plan.model_of(name) for name in plan.variants if name in with_cells}
    return {name: model for name, model in models.items() if model is not None and model.opener == "gguf"}


def _convert(export: ExportJob | None, projector: ProjectorJob | None, workspace: Workspace) -> str:
    """The command that makes the file of the text model, the projector file, or both."""
    source = next(job.source for job in (export, projector) if job is not None and job.source is not None)
    words = ["sweep", "convert", _typed(source.under(workspace.root))]
    words += [] if export is None else ["--to", export.quant]
    words += [] if projector is None else ["--mmproj", projector.quant]
    if export is not None and export.imatrix is not None:
        words += ["--imatrix", _typed(export.imatrix.under(workspace.root))]
    return join(words)


def _server(file: str, model: MeasuredModel, projector: str) -> str:
    measured = model.settings
    settings = ServerSettings(
        context=measured.ctx,
        gpu_layers=measured.gpu_layers or None,
        cpu_moe=measured.cpu_moe,
        tensor_split=measured.tensor_split or (),
        kv_types=(measured.kv_cache.k, measured.kv_cache.v),
    )
    return join(["llama-server", *server_words(file, settings, projector)])


def _typed(path: Path) -> str:
    """The path as it is typed in the current directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
