"""The inputs of a fit: a model, the devices that it may use, and how it will run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp import rpc
from converters.source import Source
from sweep.fit.draft import ModelDraft
from sweep.fit.fit_report import FitOptions
from sweep.fit.image_tokens import ProjectorFit
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.placement import FitMachine


@dataclass(frozen=True)
class OwnFile:
    """A GGUF file of the model: `path` is the file, or the copy of its header; None: it is the model's source. `spec`
    is the file for llama-server's command, if that is not the source's path."""

    path: Path | None = None
    spec: str | None = None


@dataclass(frozen=True)
class FitInputs:
    """The inputs of a fit.

    `own_files` are the variants that the model itself has, by name: the model if it is a GGUF file, or the files of a
    repository. `remote` are the RPC devices that simulate the machine's GPUs; empty if this llama.cpp does not support
    RPC. `projector` is the vision tower, if it counts, `draft` a second model for speculative decoding. `begin` is
    called before llama.cpp reads a file, with its path, or the name of a variant that is a file.
    """

    source: Source
    own_files: Mapping[str, OwnFile]
    shape: ModelShape
    machine: FitMachine
    remote: Sequence[rpc.RemoteDevice]
    options: FitOptions
    projector: ProjectorFit | None = None
    draft: ModelDraft | None = None
    begin: Callable[[str], None] = lambda _: None


class UnreadableFile(InputError):
    """llama.cpp cannot read a file of a repository: its path, and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason
