"""A model as measurements open it: how each kind of model is opened, and what its figures depend on.

A new kind of model is opened by a line of the table of openers, or by `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sweep import devices
from sweep.artefact import Artefact
from sweep.extensions import load_extensions
from sweep.jobs.base import R, Site, StoredJob
from sweep.jobs.settings import Settings, Where
from sweep.lazy import import_object

if TYPE_CHECKING:
    from sweep.backends.base import Backend

Opens = Callable[["MeasuredModel", "Site"], "Backend"]
Sizes = Callable[["MeasuredModel", "Site"], "ModelSize"]


@dataclass(frozen=True)
class ModelSize:
    """Bytes of a model's files, bits per weight, and the memory that it should take; `parts` of the latter in bytes."""

    file_bytes: int
    bits_per_weight: float
    memory_bytes: int
    parts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What computes: `packages` whose versions its figures depend on, and what it calls its device here."""

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
    """`opens` gives the backend and `sizes` what the model takes; both are functions, or "module:function".

    `moves` are the settings that move every figure beside the windows and the device, `times` those that move speed and
    memory alone, beside the threads. `shown` stand in a record. `name` is part of the keys, where it is given.
    """

    engine: str
    opens: str | Opens
    sizes: str | Sizes
    moves: tuple[str, ...] = ()
    times: tuple[str, ...] = ("ctx",)
    shown: tuple[str, ...] = ("ubatch", "ctx")
    name: str | None = None

    def open(self, model: MeasuredModel, site: Site) -> Backend:
        opens: Opens = import_object(self.opens) if isinstance(self.opens, str) else self.opens
        return opens(model, site)

    def size(self, model: MeasuredModel, site: Site) -> ModelSize:
        sizes: Sizes = import_object(self.sizes) if isinstance(self.sizes, str) else self.sizes
        return sizes(model, site)


def _torch(name: str) -> Opener:
    size = "sweep.jobs.sizes:torch_size" if name == "torch" else "sweep.jobs.sizes:quantized_size"
    return Opener("torch", f"sweep.jobs.opening:open_{name}", size, times=("ctx", "ubatch"), name=name)


_OPENERS = {
    "gguf": Opener(
        "llama.cpp",
        "sweep.jobs.opening:open_gguf",
        "sweep.jobs.sizes:gguf_size",
        moves=("batch", "ubatch", "kv_type", "gpu_layers", "cpu_moe", "tensor_split"),
        shown=("batch", "ubatch", "ctx", "gpu_layers", "cpu_moe"),
    ),
    "torch": _torch("torch"),
    "int8": _torch("int8"),
    "fq": _torch("fq"),
}


def register(name: str, opener: Opener) -> None:
    """Add a way to open models."""
    _OPENERS[name] = opener


def opener(name: str) -> Opener:
    """Raises KeyError where there is none of this name."""
    load_extensions()
    return _OPENERS[name]


def here(engines: Collection[str], threads: int) -> Where:
    """What computes on this machine, for these engines."""
    return Where(threads, {engine: ENGINES[engine].device() for engine in sorted(engines)})


@dataclass(frozen=True)
class MeasuredModel:
    """`opener` names how it is opened, `file` is a GGUF file or a checkpoint's directory, `content` a hash of what that
    holds, or the key of the cell that makes it. `engine` are the versions that compute.

    `checkpoint` is what a quantized checkpoint was made of, called `name`. `options` are the opener's own.
    """

    opener: str
    file: Artefact
    content: str
    engine: str
    settings: Settings
    checkpoint: Artefact | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def open(self, site: Site) -> Backend:
        return opener(self.opener).open(self, site)

    def identity(self, where: Where) -> dict[str, Any]:
        """What every figure of it depends on."""
        how = opener(self.opener)
        settings = ("window", "stride", *how.moves)
        return {
            "content": self.content,
            "engine": self.engine,
            "device": where.device(how.engine),
            **{name: getattr(self.settings, name) for name in settings},
            **({} if how.name is None else {"runs": how.name}),
            **({"options": dict(self.options)} if self.options else {}),
        }

    def timed_identity(self, where: Where) -> dict[str, Any]:
        """What speed and memory depend on."""
        times = {name: getattr(self.settings, name) for name in opener(self.opener).times}
        return self.identity(where) | {"threads": where.threads} | times


class MeasuringJob(StoredJob[R]):
    """A job that opens a model and measures it."""

    model: MeasuredModel


def engine_of(name: str) -> str:
    """The versions that compute what this opener opens."""
    return ENGINES[opener(name).engine].versions
