"""A model as measurements open it, and the table of openers: how each kind of model is opened, and which settings
change its figures.

To open a new kind of model, add a line to the table of openers or call `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

from converters.errors import InputError
from sweep import devices
from sweep.artefact import Artefact
from sweep.extensions import VARIABLE as EXTENSIONS
from sweep.extensions import load_extensions
from sweep.jobs.base import R, Site, StoredJob
from sweep.jobs.images import ImageInputs
from sweep.jobs.settings import ComputeResources, Settings
from sweep.lazy import import_object

if TYPE_CHECKING:
    from sweep.backends.base import Backend

OpenModel = Callable[["MeasuredModel", "Site"], "Backend"]
MeasureSize = Callable[["MeasuredModel", "Site"], "ModelSize"]


@dataclass(frozen=True)
class ModelSize:
    """The bytes of a model's files, its bits per weight, and its predicted bytes of memory.

    `parts` are the parts of the predicted memory by name, in bytes; None if they are not known.
    """

    file_bytes: int
    bits_per_weight: float
    memory_bytes: int
    parts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class EngineInfo:
    """An engine: the `packages` whose versions its figures depend on, and its name for the device of this machine."""

    packages: tuple[str, ...]
    device: Callable[[], str]

    @property
    def versions(self) -> str:
        return ", ".join(f"{package} {version(package)}" for package in self.packages)


ENGINES = {
    "llama.cpp": EngineInfo(("llama-cpp-python", "lm-eval"), lambda: devices.placement().device),
    "torch": EngineInfo(("torch", "transformers", "lm-eval"), devices.torch_device),
}


@dataclass(frozen=True)
class Opener:
    """How a kind of model is opened.

    - `engine`: the engine that computes, a key of ENGINES.
    - `open_function` returns the backend, `size_function` the size of the model; each is a function or
      "module:function".
    - `changes_results`: the settings that change every figure, in addition to the windows and the device.
    - `changes_speed`: the settings that change only speed and memory, in addition to the threads.
    - `shown_settings`: the settings that records show.
    - `key_name`: a name that is part of the keys of results; None: no name is part of them.
    """

    engine: str
    open_function: str | OpenModel
    size_function: str | MeasureSize
    changes_results: tuple[str, ...] = ()
    changes_speed: tuple[str, ...] = ("ctx",)
    shown_settings: tuple[str, ...] = ("ubatch", "ctx")
    key_name: str | None = None

    def open(self, model: MeasuredModel, site: Site) -> Backend:
        function: OpenModel = (
            import_object(self.open_function) if isinstance(self.open_function, str) else self.open_function
        )
        return function(model, site)

    def size(self, model: MeasuredModel, site: Site) -> ModelSize:
        function: MeasureSize = (
            import_object(self.size_function) if isinstance(self.size_function, str) else self.size_function
        )
        return function(model, site)


def _torch(name: str, size: str) -> Opener:
    open_function, size_function = f"sweep.jobs.openers:open_{name}", f"sweep.jobs.sizes:{size}"
    return Opener("torch", open_function, size_function, changes_speed=("ctx", "ubatch"), key_name=name)


_OPENERS = {
    "gguf": Opener(
        "llama.cpp",
        "sweep.jobs.openers:open_gguf",
        "sweep.jobs.sizes:gguf_size",
        changes_results=("batch", "ubatch", "kv_type", "gpu_layers", "cpu_moe", "tensor_split"),
        shown_settings=("batch", "ubatch", "ctx", "gpu_layers", "cpu_moe"),
    ),
    "torch": _torch("torch", "torch_size"),
    "int8": _torch("int8", "quantized_size"),
    "fq": _torch("fq", "quantized_size"),
    "ptq": _torch("ptq", "ptq_size"),
}


def register(name: str, opener: Opener) -> None:
    """Add a way to open models."""
    _OPENERS[name] = opener


def opener(name: str) -> Opener:
    """The opener of this name. Raises InputError if there is none."""
    load_extensions()
    if name not in _OPENERS:
        raise InputError(f"there is no opener '{name}' for models; name the extension that adds it in {EXTENSIONS}")
    return _OPENERS[name]


def local_resources(engines: Collection[str], threads: int) -> ComputeResources:
    """`threads`, and the device of each of these engines on this machine."""
    return ComputeResources(threads, {engine: ENGINES[engine].device() for engine in sorted(engines)})


@dataclass(frozen=True)
class MeasuredModel:
    """A model to be measured.

    `opener` names its opener. `file` is a GGUF file or a checkpoint's directory; `content` is a hash of its content, or
    the key of the cell that makes it. `engine` holds the versions of the engine's packages. `checkpoint` is the
    original checkpoint of a quantized one, and `name` its name. `options` are for the opener. `images` is what it needs
    to take images; None: it is opened without a vision tower.
    """

    opener: str
    file: Artefact
    content: str
    engine: str
    settings: Settings
    checkpoint: Artefact | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    images: ImageInputs | None = None

    @property
    def text_only(self) -> Self:
        """The model without images. Figures of a text do not depend on how images are read."""
        return replace(self, images=None)

    def open(self, site: Site) -> Backend:
        return opener(self.opener).open(self, site)

    def identity(self, resources: ComputeResources) -> dict[str, Any]:
        """Everything that all figures of the model depend on."""
        how = opener(self.opener)
        settings = ("window", "stride", *how.changes_results)
        return {
            "content": self.content,
            "engine": self.engine,
            "device": resources.device(how.engine),
            **{name: getattr(self.settings, name) for name in settings},
            **({} if how.key_name is None else {"runs": how.key_name}),
            **({"options": dict(self.options)} if self.options else {}),
            **({} if self.images is None else {"images": self.images.identity}),
        }

    def speed_identity(self, resources: ComputeResources) -> dict[str, Any]:
        """Everything that its speed and memory depend on."""
        settings = {name: getattr(self.settings, name) for name in opener(self.opener).changes_speed}
        return self.identity(resources) | {"threads": resources.threads} | settings


class MeasurementJob(StoredJob[R]):
    """A job that opens a model and measures it."""

    model: MeasuredModel


def engine_versions(name: str) -> str:
    """The versions of the engine that computes the models of this opener."""
    return ENGINES[opener(name).engine].versions
