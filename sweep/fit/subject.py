"""What MODEL of `sweep fit` stands for: anything of which the header or the config can be had, weights or not."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import presets
import presets.catalogue
from converters.catalogue import is_public, open_planned, public_model
from converters.config_source import ConfigSource
from converters.errors import InputError
from converters.gguf_source import GGUFSource, model_stem
from converters.hub import HubFile, fetch_config, fetch_index, is_hub_id
from converters.source import Source


@dataclass(frozen=True)
class Subject:
    """A model to be fitted. `file` is set where it is a GGUF: then it is a variant as it stands.

    `bytes_read` counts what came over the network, None where nothing had to.
    """

    name: str
    source: Source
    file: GGUFSource | None = None
    notes: tuple[str, ...] = ()
    bytes_read: int | None = None


def open_subject(model: str) -> Subject:
    """A built-in model, a directory, a config.json, a .gguf, `hub:REPO/FILE.gguf`, a name of the catalogue or a hub id.

    Reads headers and configs only. Raises InputError where there is none such, or it is no model.
    """
    builtin = presets.builtin_models().get(model)
    if builtin is not None:
        return Subject(builtin.name, open_planned(str(builtin.directory), builtin.name))
    if model.startswith("hub:"):
        return _remote_file(model.removeprefix("hub:"))
    path = Path(model).expanduser()
    if path.exists():
        return _local(path.resolve())
    if is_public(model):
        return _public(model)
    if not is_hub_id(model):
        known = [*presets.builtin_models(), *presets.catalogue.models()]
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "give a directory, a config.json, a .gguf or a hub id"
        raise InputError(f"{model}: there is no such model; {hint}")
    return _hub(model)


def open_file(text: str) -> GGUFSource:
    """A variant `gguf:PATH` or `hub:REPO/FILE`: the file as it stands."""
    prefix, _, rest = text.partition(":")
    if prefix == "hub":
        file = _remote_file(rest).file
        assert file is not None
        return file
    path = Path(rest).expanduser()
    if not path.is_file():
        raise InputError(f"{text}: there is no such file")
    return GGUFSource(path, requantize=True)


def _local(path: Path) -> Subject:
    if path.is_file() and path.suffix == ".gguf":
        file = GGUFSource(path, model_stem(path), requantize=True)
        return Subject(model_stem(path), file, file)
    source = open_planned(str(path))
    return Subject(source.name, source)


def _public(model: str) -> Subject:
    entry = next(one for one in presets.catalogue.models().values() if model.lower() in _names(one))
    notes = ("its config was put together from several sources that agree, not read from the published file",)
    return Subject(entry.name, public_model(model), notes=notes if entry.assembled else ())


def _names(entry: presets.catalogue.CatalogueEntry) -> tuple[str, str]:
    return entry.name.lower(), entry.hub_id.lower()


def _remote_file(text: str) -> Subject:
    remote = HubFile.parse(text)
    headers, bytes_read = remote.headers()
    path = Path(remote.repository) / remote.names[0]
    file = GGUFSource(path, model_stem(path), requantize=True, headers=headers)
    return Subject(file.name, file, file, bytes_read=bytes_read)


def _hub(hub_id: str) -> Subject:
    path, bytes_read = fetch_config(hub_id)
    name = hub_id.partition("@")[0].rpartition("/")[2]
    source = ConfigSource.open(path, name)
    if not _may_have_mtp(source):
        return Subject(name, source, bytes_read=bytes_read)
    index, more = fetch_index(hub_id)
    if index is not None:
        source = ConfigSource.open(path, name, mtp=_mtp_layers(index))
    return Subject(name, source, bytes_read=bytes_read + more)


def _may_have_mtp(source: ConfigSource) -> bool:
    """Families whose checkpoints may have such layers whatever the config says: those with linear attention."""
    return any(".ssm_" in tensor.name for tensor in source.tensors)


def _mtp_layers(index: Path) -> int:
    """How many multi-token prediction layers a checkpoint's list of tensors has."""
    try:
        names = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{index}: is no list of a checkpoint's tensors ({error})") from error
    return len({match[1] for name in names if (match := re.match(r"mtp\.layers\.(\d+)\.", name))})
