"""What can be exported: a checkpoint or a GGUF file, seen as GGUF metadata and rows of weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.checkpoint import Checkpoint
from converters.checkpoint_source import CheckpointSource
from converters.errors import InputError
from converters.gguf_source import GGUFSource
from converters.hub import fetch, is_hub_id
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


def open_source(
    model: str | Path,
    name: str | None = None,
    pre_tokenizer: str | None = None,
    mtp: bool = True,
    requantize: bool = False,
) -> Source:
    """The model called `model`: a checkpoint directory, a .gguf file or, where there is no such path, a hub id.

    `name` is what the model is called in files made from it, `pre_tokenizer` llama.cpp's name of the pre-tokenizer
    where tokenizer.json does not tell it, `mtp` whether multi-token prediction layers are exported, `requantize`
    whether a quantized GGUF will do. Raises InputError for whatever cannot be exported, before any weight is read.
    """
    path = Path(model)
    if not path.exists() and is_hub_id(str(model)):
        path, name = fetch(str(model)), name or str(model).partition("@")[0].rpartition("/")[2]
    if path.is_file() and path.suffix == ".gguf":
        return GGUFSource(path, name, requantize)
    if path.is_file():
        raise InputError(f"{path}: is neither a .gguf file nor a checkpoint directory")
    return CheckpointSource(Checkpoint.open(path, name), pre_tokenizer, mtp)
