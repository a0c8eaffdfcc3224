"""The commands for a variant before a run: how to get its file, and how to run it where `sweep fit` placed it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from converters.catalogue import catalogue_entry
from converters.hub import HUB, HubFile
from converters.shell import join
from sweep.analysis.candidate import Commands
from sweep.fit.fit_report import GGUF, FitRow
from sweep.fit.server_arguments import with_file
from sweep.variant_name import split_cache, split_projector


def fit_commands(
    row: FitRow, model: str, files: Mapping[str, str], context: int, workspace: Sequence[str] = ()
) -> Commands:
    """`model` is the MODEL that `sweep fit` was asked about; `files` are the files that exist, by variant. `context` is
    in tokens per sequence, `workspace` the option that names the workspace."""
    if row.recipe is not None:
        return _int8_commands(row.recipe, model, context, workspace)
    if not row.arguments:
        return Commands()
    variant = split_cache(row.variant)[0]
    # A model that is a file on the hub is a variant itself, which is named by its file alone.
    on_hub = next((name for name in (variant, model) if name.startswith(HUB) and name.count("/") > 1), None)
    if variant in files:
        return Commands(_server(row, files[variant]))
    if variant.startswith(HUB) and on_hub is not None:
        return Commands(_server(row, on_hub), _download(on_hub))
    if variant.startswith(HUB):  # of a repository: the row names the file
        return Commands(_server(row, None), _download_of(row, model))
    if row.kind == GGUF and not variant.startswith("gguf:"):
        entry = catalogue_entry(model)
        images = [] if row.projector_type is None else ["--mmproj", row.projector_type]
        get = [
            "sweep",
            "convert",
            model if entry is None else entry.hub_id,
            "--to",
            split_projector(variant)[0],
            *images,
        ]
        return Commands(_server(row, None), join(get))
    return Commands(_server(row, None))


def _int8_commands(recipe: str, model: str, context: int, workspace: Sequence[str]) -> Commands:
    """vLLM reads the checkpoints that `sweep int8` writes."""
    entry = catalogue_entry(model)
    source = model if entry is None else entry.hub_id
    directory = f"./{Path(source).name}-{recipe}"  # otherwise vLLM may take it for the name of a model on the hub
    get = ["sweep", "int8", source, "--recipe", recipe, "--out", directory, *workspace]
    return Commands(join(["vllm", "serve", directory, "--max-model-len", str(context)]), join(get))


def _download_of(row: FitRow, repository: str) -> str:
    """The command that downloads the file of a variant of a repository at a certain revision."""
    words = shlex.split(row.arguments)
    if "@" not in repository or words[0] != "-m":
        return ""
    return _download(f"{HUB}{repository.removeprefix(HUB)}/{words[1].removeprefix('./')}")


def _download(on_hub: str) -> str:
    """llama-server downloads what it runs, but only a repository's latest revision."""
    remote = HubFile.parse(on_hub.removeprefix(HUB))
    return "" if remote.revision is None else join(remote.download_words)


def _server(row: FitRow, file: str | None) -> str:
    """The command with this file, or with the row's own."""
    words = shlex.split(row.arguments)
    return join(["llama-server", *(words if file is None else with_file(words, file))])
