"""What MODEL on the command line means: one set of rules and messages for every command.

MODEL is the first of these that matches: a built-in model's name, `hub:REPO/FILE.gguf`, `hub:REPO` (a repository of
GGUF files), a path (a checkpoint's directory, a config.json, a .gguf file or any part of a split one, a directory of
GGUF files), a public model's name in the catalogue, or a hub id ("org/name", "org/name@revision") of a checkpoint or of
a repository of GGUF files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import presets
import presets.catalogue
from converters.architectures.family import mtp_layers
from converters.catalogue import catalogue_entry, no_such_model, public_model
from converters.checkpoint import Checkpoint
from converters.checkpoint_source import CheckpointSource
from converters.config_source import ConfigSource
from converters.errors import InputError
from converters.gguf_repository import (
    GGUFRepository,
    is_gguf_directory,
    is_gguf_listing,
    open_directory,
    open_hub,
)
from converters.gguf_source import GGUFSource, model_stem
from converters.hub import HUB, HubFile, fetch, fetch_config, fetch_index, is_hub_id
from converters.hub_files import list_repository
from converters.hub_reachable import is_reachable
from converters.llamacpp.container import GGUFHeader
from converters.source import Source


class Need(Enum):
    """What a command reads of a model. Nothing more is downloaded from the hub."""

    WEIGHTS = "the whole model"
    CHECKPOINT = "a whole Hugging Face checkpoint, which torch methods quantize"
    PLAN = "config and tokenizer, for file sizes exact to the byte"
    HEADERS = "config or GGUF headers, to compute what fits"


class ModelForm(Enum):
    """The form in which a model was found."""

    CHECKPOINT = "a directory with config.json and weights"
    CONFIG = "a config without weights"
    GGUF = "a GGUF file"
    REPOSITORY = "a repository of GGUF files"
    CATALOGUE = "a public model whose config is in the catalogue"


NO_CHECKPOINT = "variants that torch quantizes or runs need a Hugging Face checkpoint; give its directory or hub id"
_NO_WEIGHTS = (
    "is a config without weights (no model.safetensors); give the directory of the complete checkpoint, or its hub id"
)
_SIZES_ALONE = (
    "only the sizes of this model are known (for sweep fit and --dry-run); for more give its hub id, {hub_id}, or a"
    " directory"
)
_MANY_FILES = (
    "is a repository of GGUF files; `sweep run` and `sweep fit` take all of it, other commands one file: {file}"
)
_INSUFFICIENT = {
    (ModelForm.REPOSITORY, Need.WEIGHTS): _MANY_FILES,
    (ModelForm.REPOSITORY, Need.PLAN): _MANY_FILES,
    (ModelForm.REPOSITORY, Need.CHECKPOINT): NO_CHECKPOINT,
    (ModelForm.CONFIG, Need.WEIGHTS): _NO_WEIGHTS,
    (ModelForm.CONFIG, Need.CHECKPOINT): _NO_WEIGHTS,
    (ModelForm.GGUF, Need.CHECKPOINT): NO_CHECKPOINT,
    (ModelForm.CATALOGUE, Need.WEIGHTS): _SIZES_ALONE,
    (ModelForm.CATALOGUE, Need.CHECKPOINT): _SIZES_ALONE,
}
"""Why a model of this form is not enough for the command, and what to do."""

_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True)
class FoundModel:
    """A model, its form and its location.

    - `path`: a directory or a file. For a model of the catalogue it is its name there, and for a file on the hub that
      was not downloaded it is MODEL as given: `open_source` finds both again by it.
    - `remote`, `headers`: a file on the hub that was not downloaded, and the headers of its parts.
    - `repository`: the repository of GGUF files; `path` is then the file that says most of the model, or the copy of
      its header.
    - `mtp_layers`: the number of MTP layers, if it is known from more than the config.
    - `bytes_read`: bytes read over the network; None if nothing had to be read.
    """

    name: str
    path: Path
    form: ModelForm
    builtin: presets.BuiltinModel | None = None
    entry: presets.catalogue.CatalogueEntry | None = None
    remote: HubFile | None = None
    headers: tuple[GGUFHeader, ...] = ()
    repository: GGUFRepository | None = None
    mtp_layers: int | None = None
    bytes_read: int | None = None

    def insufficient(self, need: Need) -> str | None:
        """Why the model is not enough for `need`, and what to do; None if it is."""
        reason = _INSUFFICIENT.get((self.form, need))
        if reason is None:
            return None
        if self.repository is not None:
            return f"{self.repository.id}: {reason.format(file=self.repository.spec(self.repository.whole))}"
        return f"{self.path}: {reason.format(hub_id='' if self.entry is None else self.entry.hub_id)}"

    def without(self, unreadable: Mapping[str, str]) -> FoundModel:
        """The model without files of its repository that llama.cpp cannot read: see GGUFRepository.without."""
        if self.repository is None:
            return self
        repository = self.repository.without(unreadable)
        return replace(self, repository=repository, path=repository.whole.path)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for readers of this model's figures."""
        if self.repository is not None:
            return tuple(self.repository.left_out)
        if self.entry is None or not self.entry.assembled:
            return ()
        return ("its config was assembled from several sources that agree, not read from the published file",)

    def open(
        self,
        name: str | None = None,
        pre_tokenizer: str | None = None,
        mtp: bool = True,
        requantize: bool = False,
        repair: bool = False,
    ) -> Source:
        """Open the model as a source; for the options see `open_source`. Reads no weights. Raises InputError."""
        if repair and self.form is not ModelForm.GGUF:
            raise InputError(f"{self.path}: is not a GGUF file; --repair is only for GGUF files, so leave it out")
        match self.form:
            case ModelForm.REPOSITORY:
                return GGUFSource(self.path, name, requantize=True, mtp=mtp)
            case ModelForm.GGUF:
                path = self.path if self.remote is None else Path(self.remote.repository) / self.remote.names[0]
                return GGUFSource(path, name, requantize, self.headers, mtp, repair)
            case ModelForm.CATALOGUE:
                assert self.entry is not None
                return public_model(self.entry.name, mtp=None if mtp else 0)
            case ModelForm.CONFIG:
                return ConfigSource.open(self.path, name, pre_tokenizer, self.mtp_layers if mtp else 0)
            case ModelForm.CHECKPOINT:
                return CheckpointSource(Checkpoint.open(self.path, name), pre_tokenizer, mtp)


def find_model(
    text: str | Path, need: Need, say: Callable[[str], None] = lambda _: None, is_repository: bool | None = None
) -> FoundModel:
    """Find the model that `text` names, and download it from the hub if it is there and `need` requires it.

    `say` is called with one line before anything that takes long. `is_repository`: what `find_repository` found out;
    None if it was not called. Raises InputError if there is no such model, or if its form is not enough for `need`.
    """
    found = _found(str(text), need, say, is_repository)
    reason = found.insufficient(need)
    if reason is not None:
        raise InputError(reason)
    return found


def find_file(text: str, need: Need) -> FoundModel:
    """Find the GGUF file that a variant `gguf:PATH` or `hub:REPO/FILE` names. Raises InputError."""
    if text.startswith(HUB):
        return find_model(text, need)
    path = Path(text.removeprefix("gguf:")).expanduser()
    if not path.is_file():
        raise InputError(f"{text}: there is no such file")
    return _local(path, need)


def names_repository(variant: str) -> bool:
    """Whether a variant's name stands for a repository on the hub, hub:ORG/NAME, and not for a file."""
    return variant.startswith(HUB) and is_hub_id(variant.removeprefix(HUB))


def find_repository(text: str, say: Callable[[str], None] = lambda _: None) -> GGUFRepository | None:
    """The repository of GGUF files that MODEL, or the variant `hub:ORG/NAME`, names; None if it names something else.
    `say` is called with a line before the hub is asked.

    Raises InputError for a repository without a model, and if the hub cannot be asked and its cache knows no model of
    this name.
    """
    hub_id = text.removeprefix(HUB)
    if text in presets.builtin_models() or (text.startswith(HUB) and not is_hub_id(hub_id)):
        return None
    if not text.startswith(HUB):
        if _exists(text):
            path = Path(text).expanduser()
            return open_directory(path.resolve()) if path.is_dir() and is_gguf_directory(path) else None
        if not is_hub_id(text) or text.endswith((".gguf", ".json")) or catalogue_entry(text) is not None:
            return None
    say(f"{hub_id} is not a path on this machine; looking it up on the hub")
    if not text.startswith(HUB) and not is_reachable():
        return None  # a checkpoint may be in the cache
    listing = list_repository(hub_id)
    if not text.startswith(HUB) and not is_gguf_listing(listing):
        return None
    return open_hub(hub_id, listing)


def is_known_offline(text: str) -> bool:
    """Whether the config of the model `text` comes with this program: a built-in model or one of the catalogue."""
    return text in presets.builtin_models() or (catalogue_entry(text) is not None and not _exists(text))


def open_source(
    model: str | Path,
    name: str | None = None,
    pre_tokenizer: str | None = None,
    mtp: bool = True,
    requantize: bool = False,
    need: Need = Need.WEIGHTS,
    repair: bool = False,
) -> Source:
    """Find the model `model` and open it as a source.

    - `name`: the model's name in files made from it. A GGUF file keeps the name in its metadata by default.
    - `pre_tokenizer`: llama.cpp's name of the pre-tokenizer, if it cannot be recognized from tokenizer.json.
    - `mtp`: whether multi-token prediction layers are exported.
    - `requantize`: whether a quantized GGUF file is accepted.
    - `need`: `Need.PLAN` opens as much of the model as sizes of files need.
    - `repair`: whether known faults of a GGUF file are repaired.

    Raises InputError, before any weight is read, for everything that cannot be exported.
    """
    found = find_model(model, need)
    default = None if found.form is ModelForm.GGUF else found.name
    return found.open(name or default, pre_tokenizer, mtp, requantize, repair)


def _found(text: str, need: Need, say: Callable[[str], None], is_repository: bool | None) -> FoundModel:
    builtin = presets.builtin_models().get(text)
    if builtin is not None:
        return FoundModel(builtin.name, builtin.directory, ModelForm.CHECKPOINT, builtin)
    repository = None if is_repository is False else find_repository(text, say)
    if repository is not None:
        whole = repository.whole.path
        return FoundModel(
            repository.model, whole, ModelForm.REPOSITORY, repository=repository, bytes_read=repository.bytes_read
        )
    if text.startswith(HUB):
        return _hub_file(text, need, say)
    if _exists(text):
        return _local(Path(text).expanduser(), need)
    entry = catalogue_entry(text)
    hub_id = is_hub_id(text) and not text.endswith((".gguf", ".json"))
    if entry is not None and (need in (Need.PLAN, Need.HEADERS) or not hub_id):
        return FoundModel(entry.name, Path(text), ModelForm.CATALOGUE, entry=entry)
    if not hub_id:
        raise no_such_model(text)
    return _hub(text, need)


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, ~ of no user, a zero byte
        raise InputError(f"{text}: is not a valid path ({getattr(error, 'strerror', None) or error})") from error


def _local(path: Path, need: Need) -> FoundModel:
    if path.is_dir():
        path = path.resolve()
        return FoundModel(path.name, path, _form(path, need))
    # Keep the name of a link to a file, as in the hub's cache: parts are found by their names.
    path = path.parent.resolve() / path.name
    if path.suffix == ".gguf":
        return FoundModel(model_stem(path), path, ModelForm.GGUF)
    if path.suffix != ".json":
        raise InputError(f"{path}: is neither a .gguf file, a config.json nor a checkpoint directory")
    return FoundModel(path.parent.name if path.name == "config.json" else path.stem, path, ModelForm.CONFIG)


def _form(directory: Path, need: Need) -> ModelForm:
    """If weights are needed, a directory with only a list of shards or without config.json is also a checkpoint:
    opening it reports what is missing."""
    suffixes = (*_WEIGHT_FILES, ".index.json") if need in (Need.WEIGHTS, Need.CHECKPOINT) else _WEIGHT_FILES
    bare = not any(file.name.endswith(suffixes) for file in directory.iterdir())
    return ModelForm.CONFIG if bare and (directory / "config.json").is_file() else ModelForm.CHECKPOINT


def _hub(hub_id: str, need: Need) -> FoundModel:
    name = hub_id.partition("@")[0].rpartition("/")[2]
    if need is not Need.HEADERS:
        directory = fetch(hub_id, weights=need is not Need.PLAN)
        return FoundModel(name, directory, _form(directory, need))
    path, bytes_read = fetch_config(hub_id)
    layers = None
    if ConfigSource.open(path, name).family.mtp:
        index, more = fetch_index(hub_id)
        bytes_read += more
        layers = None if index is None else _listed_mtp_layers(index)
    return FoundModel(name, path, ModelForm.CONFIG, mtp_layers=layers, bytes_read=bytes_read)


def _listed_mtp_layers(index: Path) -> int:
    """The number of multi-token prediction layers in a checkpoint's list of tensors."""
    try:
        return mtp_layers(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{index}: is not the index of a checkpoint ({error}); download it again") from error


def _hub_file(text: str, need: Need, say: Callable[[str], None]) -> FoundModel:
    remote = HubFile.parse(text.removeprefix(HUB))
    name = model_stem(Path(remote.names[0]))
    if need is Need.CHECKPOINT:  # rejected by the caller, so nothing is fetched
        return FoundModel(name, Path(text), ModelForm.GGUF)
    path = None if need is Need.HEADERS else remote.cached()
    if path is None and need is Need.WEIGHTS:
        say(f"downloading {text} from the hub")
        path = remote.fetch()
    if path is not None:
        return FoundModel(name, path, ModelForm.GGUF)
    headers, bytes_read = remote.headers()
    return FoundModel(name, Path(text), ModelForm.GGUF, remote=remote, headers=tuple(headers), bytes_read=bytes_read)
