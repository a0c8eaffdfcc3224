"""The inputs of a fit: a model, the devices that it may use, and how it will run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.llamacpp import rpc
from converters.source import Source
from sweep.fit.draft import ModelDraft
from sweep.fit.fit_report import FitOptions
from sweep.fit.image_tokens import ProjectorFit
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.placement import FitMachine


@dataclass(frozen=True)
class FitInputs:
    """The inputs of a fit.

    `own_variant` is the name of the variant that the model itself is, if it is a GGUF file; otherwise None. `remote`
    are the RPC devices that simulate the machine's GPUs; empty if this llama.cpp does not support RPC. `projector` is
    the vision tower, if it counts, `draft` a second model for speculative decoding.
    """

    source: Source
    own_variant: str | None
    shape: ModelShape
    machine: FitMachine
    remote: Sequence[rpc.RemoteDevice]
    options: FitOptions
    projector: ProjectorFit | None = None
    draft: ModelDraft | None = None
