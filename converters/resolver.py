"""What MODEL on the command line stands for: one set of rules and messages for every command.

MODEL is, in this order: a built-in model's name, `hub:REPO/FILE.gguf`, a path (a checkpoint's directory, a config.json,
a .gguf file or any part of one), a public model's name in the catalogue, or a hub id ("org/name", "org/name@revision").
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
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
from converters.gguf_source import GGUFSource, model_stem
from converters.hub import HubFile, fetch, fetch_config, fetch_index, is_hub_id
from converters.llamacpp.container import GGUFHeader
from converters.source import Source

HUB_FILE = "hub:"
"""What a GGUF file in a repository of the hub begins with."""


class Need(Enum):
    """What a command reads of a model. Nothing more is fetched from the hub."""

    WEIGHTS = "all of it"
    CHECKPOINT = "all of a Hugging Face checkpoint, which methods in torch quantize"
    PLAN = "its config and its tokenizer: sizes of files, to the byte"
    HEADERS = "its config or its GGUF headers: what fits"


class ModelForm(Enum):
    """What was found."""

    CHECKPOINT = "a directory with config.json and weights"
    CONFIG = "a config without weights"
    GGUF = "a GGUF file"
    CATALOGUE = "a public model of which the catalogue has the config"


NO_CHECKPOINT = "methods in torch quantize a Hugging Face checkpoint; give its directory or hub id"
_NO_WEIGHTS = (
    "is a config without weights (no model.safetensors); give its directory with the whole checkpoint, or its hub id"
)
_SIZES_ALONE = "its sizes alone are known (sweep fit, --dry-run); for more give its hub id, {hub_id}, or a directory"
_REFUSALS = {
    (ModelForm.CONFIG, Need.WEIGHTS): _NO_WEIGHTS,
    (ModelForm.CONFIG, Need.CHECKPOINT): _NO_WEIGHTS,
    (ModelForm.GGUF, Need.CHECKPOINT): NO_CHECKPOINT,
    (ModelForm.CATALOGUE, Need.WEIGHTS): _SIZES_ALONE,
    (ModelForm.CATALOGUE, Need.CHECKPOINT): _SIZES_ALONE,
}
"""Why a model of this form is not enough, and what to do."""

_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True)
class FoundModel:
    """A model and where it is.

    `path` is a directory or a file. Of a model of the catalogue it is its name there, and of a file of the hub that was
    not fetched (`remote`) it is MODEL as given: `open_planned` finds both again by it. `headers` are those of the parts
    of such a file. `mtp_layers` is the number of MTP layers where more than the config tells it. `bytes_read` counts
    what came over the network, None where nothing had to.
    """

    name: str
    path: Path
    form: ModelForm
    builtin: presets.BuiltinModel | None = None
    entry: presets.catalogue.CatalogueEntry | None = None
    remote: HubFile | None = None
    headers: tuple[GGUFHeader, ...] = ()
    mtp_layers: int | None = None
    bytes_read: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of figures of the model should know."""
        if self.entry is None or not self.entry.assembled:
            return ()
        return ("its config was put together from several sources that agree, not read from the published file",)

    def open(
        self,
        name: str | None = None,
        pre_tokenizer: str | None = None,
        mtp: bool = True,
        requantize: bool = False,
    ) -> Source:
        """The model as a source; for the options see `open_source`. Reads no weight. Raises InputError."""
        match self.form:
            case ModelForm.GGUF:
                path = self.path if self.remote is None else Path(self.remote.repository) / self.remote.names[0]
                return GGUFSource(path, name, requantize, self.headers)
            case ModelForm.CATALOGUE:
                assert self.entry is not None
                return public_model(self.entry.name, mtp=None if mtp else 0)
            case ModelForm.CONFIG:
                return ConfigSource.open(self.path, name, pre_tokenizer, self.mtp_layers if mtp else 0)
            case ModelForm.CHECKPOINT:
                return CheckpointSource(Checkpoint.open(self.path, name), pre_tokenizer, mtp)


def find_model(text: str | Path, need: Need, say: Callable[[str], None] = lambda _: None) -> FoundModel:
    """The model that `text` stands for, fetched from the hub where it is there and `need` asks for it.

    `say` is given a line before something takes long. Raises InputError where there is no such model, or where it is
    not of a form that `need` asks for.
    """
    found = _found(str(text), need, say)
    refusal = _REFUSALS.get((found.form, need))
    if refusal is not None:
        hub_id = "" if found.entry is None else found.entry.hub_id
        raise InputError(f"{found.path}: {refusal.format(hub_id=hub_id)}")
    return found


def find_file(text: str, need: Need) -> FoundModel:
    """The GGUF file that a variant `gguf:PATH` or `hub:REPO/FILE` names. Raises InputError."""
    if text.startswith(HUB_FILE):
        return find_model(text, need)
    path = Path(text.removeprefix("gguf:")).expanduser()
    if not path.is_file():
        raise InputError(f"{text}: there is no such file")
    return _local(path, need)


def is_known_offline(text: str) -> bool:
    """Whether `text` is a model whose config comes with this program: a built-in one, or one of the catalogue."""
    return text in presets.builtin_models() or (catalogue_entry(text) is not None and not _exists(text))


def open_source(
    model: str | Path,
    name: str | None = None,
    pre_tokenizer: str | None = None,
    mtp: bool = True,
    requantize: bool = False,
) -> Source:
    """The model `model` with its weights.

    `name` is what the model is called in files made from it, `pre_tokenizer` llama.cpp's name of the pre-tokenizer
    where tokenizer.json does not tell it, `mtp` whether multi-token prediction layers are exported, `requantize`
    whether a quantized GGUF will do. Raises InputError for whatever cannot be exported, before any weight is read.
    """
    return _open(find_model(model, Need.WEIGHTS), name, pre_tokenizer, mtp, requantize)


def open_planned(
    model: str | Path,
    name: str | None = None,
    pre_tokenizer: str | None = None,
    mtp: bool = True,
    requantize: bool = False,
) -> Source:
    """The model `model` as far as sizes of files need it; for the options see `open_source`. Raises InputError."""
    return _open(find_model(model, Need.PLAN), name, pre_tokenizer, mtp, requantize)


def _open(found: FoundModel, name: str | None, pre_tokenizer: str | None, mtp: bool, requantize: bool) -> Source:
    """A GGUF file that is given no name keeps the one in its metadata."""
    own = None if found.form is ModelForm.GGUF else found.name
    return found.open(name or own, pre_tokenizer, mtp, requantize)


def _found(text: str, need: Need, say: Callable[[str], None]) -> FoundModel:
    builtin = presets.builtin_models().get(text)
    if builtin is not None:
        return FoundModel(builtin.name, builtin.directory, ModelForm.CHECKPOINT, builtin)
    if text.startswith(HUB_FILE):
        return _hub_file(text, need, say)
    if _exists(text):
        return _local(Path(text).expanduser(), need)
    entry = catalogue_entry(text)
    hub_id = is_hub_id(text) and not text.endswith((".gguf", ".json"))
    if entry is not None and (need in (Need.PLAN, Need.HEADERS) or not hub_id):
        return FoundModel(entry.name, Path(text), ModelForm.CATALOGUE, entry=entry)
    if not hub_id:
        raise no_such_model(text)
    say(f"{text} is no path here; asking the hub")
    return _hub(text, need)


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, ~ of no user, a zero byte
        raise InputError(f"{text}: is no path ({getattr(error, 'strerror', None) or error})") from error


def _local(path: Path, need: Need) -> FoundModel:
    if path.is_dir():
        path = path.resolve()
        return FoundModel(path.name, path, _form(path, need))
    # The file itself may be a link to one of another name, as in the hub's cache: parts are found by their names.
    path = path.parent.resolve() / path.name
    if path.suffix == ".gguf":
        return FoundModel(model_stem(path), path, ModelForm.GGUF)
    if path.suffix != ".json":
        raise InputError(f"{path}: is neither a .gguf file, a config.json nor a checkpoint directory")
    return FoundModel(path.parent.name if path.name == "config.json" else path.stem, path, ModelForm.CONFIG)


def _form(directory: Path, need: Need) -> ModelForm:
    """Where weights are needed, a list of shards or a missing config.json counts as a checkpoint too: opening it says
    what is missing."""
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
    """How many multi-token prediction layers a checkpoint's list of tensors has."""
    try:
        return mtp_layers(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{index}: is no list of a checkpoint's tensors ({error})") from error


def _hub_file(text: str, need: Need, say: Callable[[str], None]) -> FoundModel:
    remote = HubFile.parse(text.removeprefix(HUB_FILE))
    name = model_stem(Path(remote.names[0]))
    if need is Need.CHECKPOINT:  # refused: nothing is fetched for it
        return FoundModel(name, Path(text), ModelForm.GGUF)
    path = None if need is Need.HEADERS else remote.cached()
    if path is None and need is Need.WEIGHTS:
        say(f"fetching {text} from the hub")
        path = remote.fetch()
    if path is not None:
        return FoundModel(name, path, ModelForm.GGUF)
    headers, bytes_read = remote.headers()
    return FoundModel(name, Path(text), ModelForm.GGUF, remote=remote, headers=tuple(headers), bytes_read=bytes_read)
