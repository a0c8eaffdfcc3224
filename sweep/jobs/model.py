"""A model as measurements open it: its file, what opens it, and all that its figures depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweep.artefact import Artefact
from sweep.jobs.base import R, StoredJob
from sweep.jobs.openers import ENGINES, opener
from sweep.jobs.settings import Settings, Where

if TYPE_CHECKING:
    from sweep.backends.base import Backend
    from sweep.jobs.base import Site


@dataclass(frozen=True)
class ModelSize:
    """Bytes of a model's files, bits per weight, and the memory that it should take; `parts` of the latter in bytes."""

    file_bytes: int
    bits_per_weight: float
    memory_bytes: int
    parts: Mapping[str, Any] | None = None


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
