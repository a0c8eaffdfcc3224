"""What can be exported: a checkpoint or a GGUF file, seen as GGUF metadata and rows of weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.llamacpp.bindings import TensorType
from converters.llamacpp.container import Field, TensorInfo


class Source(Protocol):
    """A model to export. `tensors` are in llama.cpp's order with the types they have before quantization."""

    path: Path
    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def metadata(self) -> Mapping[str, Field]:
        """All metadata but what differs from file to file. The first use reads the vocabulary, which takes a while."""

    @property
    def structure(self) -> Mapping[str, Field]:
        """What llama.cpp's plans depend on: the metadata with the vocabulary's size in place of the vocabulary."""

    @property
    def fingerprint(self) -> str:
        """Hash of the model's content."""

    def stored_name(self, name: str, row: int = 0) -> str:
        """What that which holds a row of tensor `name` is called where it is stored: for messages."""

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """Rows of a tensor as [stop - start, row length], and their type: F32, F16, or BF16 as uint16.

        All axes but the last count as rows. Safe to call from several threads.
        """
