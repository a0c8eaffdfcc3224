"""The commands for a variant before a run: how to get its file, and how to run it where `sweep fit` placed it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from converters.catalogue import catalogue_entry
from converters.shell import join
from sweep.analysis.candidate import Commands
from sweep.fit.fit_report import GGUF, FitRow

HUB = "hub:"


def fit_commands(
    row: FitRow, model: str, files: Mapping[str, str], context: int, workspace: Sequence[str] = ()
) -> Commands:
    """`model` is the MODEL that `sweep fit` was asked about; `files` are the files that exist, by variant. `context` is
    in tokens per sequence, `workspace` the option that names the workspace."""
    if row.recipe is not None:
        return _int8_commands(row.recipe, model, context, workspace)
    if not row.arguments:
        return Commands()
    # A model that is a file on the hub is a variant itself, which is named by its file alone.
    on_hub = next((name for name in (row.variant, model) if name.startswith(HUB) and name.count("/") > 1), None)
    if row.variant.startswith(HUB) and on_hub is not None:
        owner, repository, path = on_hub.removeprefix(HUB).split("/", 2)
        get = ["hf", "download", f"{owner}/{repository}", path, "--local-dir", "."]
        return Commands(_server(row, path), join(get))
    if row.variant in files:
        return Commands(_server(row, files[row.variant]))
    if row.kind == GGUF and not row.variant.startswith("gguf:"):
        entry = catalogue_entry(model)
        get = ["sweep", "convert", model if entry is None else entry.hub_id, "--to", row.variant]
        return Commands(_server(row, None), join(get))
    return Commands(_server(row, None))


def _int8_commands(recipe: str, model: str, context: int, workspace: Sequence[str]) -> Commands:
    """vLLM reads the checkpoints that `sweep int8` writes."""
    entry = catalogue_entry(model)
    source = model if entry is None else entry.hub_id
    directory = f"./{Path(source).name}-{recipe}"  # otherwise vLLM may take it for the name of a model on the hub
    get = ["sweep", "int8", source, "--recipe", recipe, "--out", directory, *workspace]
    return Commands(join(["vllm", "serve", directory, "--max-model-len", str(context)]), join(get))


def _server(row: FitRow, file: str | None) -> str:
    """The command with this file, or with the row's own."""
    words = shlex.split(row.arguments)
    if file is not None and words[0] == "-m":
        words[1] = f"./{file}" if file.startswith("-") else file
    return join(["llama-server", *words])
