"""What is asked about: a model, the devices it may use, and how it is to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.llamacpp import rpc
from converters.source import Source
from sweep.fit.fit_report import FitFigure, FitOptions
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.placement import Machine


@dataclass(frozen=True)
class FitSubject:
    """`own` is the name of the variant that the model is as it stands, None of one that is no GGUF file. `remote` are
    stand-ins for the machine's GPUs, none where llama.cpp cannot have them."""

    source: Source
    own: str | None
    shape: ModelShape
    machine: Machine
    remote: Sequence[rpc.RemoteDevice]
    options: FitOptions
    projector: FitFigure
