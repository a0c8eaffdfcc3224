"""The interface of models that can be exported: GGUF metadata and rows of weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.llamacpp.bindings import TensorType
from converters.llamacpp.container import Field, TensorInfo


class Source(Protocol):
    """A model to export. `tensors` are in llama.cpp's order, with their types before quantization."""

    path: Path
    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def metadata(self) -> Mapping[str, Field]:
        """All metadata except what differs from file to file. The first use reads the vocabulary, which may be slow."""

    @property
    def structure(self) -> Mapping[str, Field]:
        """The metadata that llama.cpp's plans depend on: the vocabulary's size replaces the vocabulary."""

    @property
    def fingerprint(self) -> str:
        """A hash of the model's content, as 64 hexadecimal digits."""

    def stored_name(self, name: str, row: int = 0) -> str:
        """The stored tensor's name that holds row `row` of tensor `name`; used in messages."""

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """Rows of a tensor as [stop - start, row length], and their type. BF16 comes as uint16, a quant as its blocks.

        All axes but the last count as rows. Safe to call from several threads. Raises InputError if they cannot be
        read.
        """
