"""The commands that run the variants of a finished run, and that make the files that were not kept."""

from __future__ import annotations

from collections.abc import Sequence
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
        file = model.file.under(workspace.root)
        export, projector = exports.get(model.content), projectors.get(name)
        tower = None if projector is None else projector.file.under(workspace.root)
        images = "" if tower is None else _typed(tower)
        fetch, published = "", None if projector is None else downloads.get(projector.content)
        if published is not None and tower is not None and not tower.exists():
            images, fetch = published.parts[0].path, _fetch(published)
        download = downloads.get(model.content)
        if download is not None and not file.exists():
            found[name] = Commands(_server(download.spec, model, images), fetch)
            continue
        if fetch:
            found[name] = Commands(_server(_typed(file), model, images), fetch)
            continue
        made = [] if projector is None or tower is None or tower.exists() else [projector]
        if made:
            images = projector_name(made[0].name, made[0].quant)
        if file.exists() or export is None:
            convert = _convert(None, made, workspace) if made else ""
            found[name] = Commands(_server(_typed(file), model, images), convert)
        else:
            found[name] = Commands(_server(export.file_name, model, images), _convert(export, made, workspace))
    return found


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


def _convert(export: ExportJob | None, projectors: Sequence[ProjectorJob], workspace: Workspace) -> str:
    """The command that makes the file of the text model, the projector file, or both."""
    source = next(job.source for job in (export, *projectors) if job is not None and job.source is not None)
    words = ["sweep", "convert", _typed(source.under(workspace.root))]
    words += [] if export is None else ["--to", export.quant]
    words += [word for job in projectors for word in ("--mmproj", job.quant)]
    if export is not None and export.imatrix is not None:
        words += ["--imatrix", _typed(export.imatrix.under(workspace.root))]
    return join(words)


def _fetch(download: DownloadJob) -> str:
    """The command that downloads a file again."""
    paths = [part.path for part in download.parts]
    return join(["hf", "download", download.repository, *paths, "--revision", download.revision, "--local-dir", "."])


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
