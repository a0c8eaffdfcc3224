"""An ImageEncoder that uses llama.cpp's multi-modal library with a projector file."""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from converters.llamacpp.image_encoder import LlamaImageEncoder
from converters.llamacpp.model import Model
from converters.llamacpp.reader import read_header
from converters.projector_file import read_projector
from images.file import ImageFile
from images.preprocessing import Grid, Preprocessing
from sweep.backends.projector_settings import require_same_settings


class ProjectorEncoder:
    """See ImageEncoder. Raises InputError if the projector file is for another model or other settings."""

    def __init__(
        self,
        path: Path,
        model: Model,
        preprocessing: Preprocessing,
        *,
        flash_attn: str = "auto",
        n_threads: int | None = None,
        use_gpu: bool = False,
    ) -> None:
        self._path = path
        self._computed_by = f"{version('llama-cpp-python')} flash attention {flash_attn}, GPU {use_gpu}"
        read_projector(path, read_header(model.path).metadata, str(model.path))
        self._encoder = LlamaImageEncoder(path, model, flash_attn=flash_attn, n_threads=n_threads, use_gpu=use_gpu)
        self.preprocessing = preprocessing
        self.width = self._encoder.width
        own = self._encoder
        try:
            require_same_settings(path, own.patch_size, own.merge_size, own.mean, own.std, preprocessing)
        except InputError:
            self.close()
            raise

    @cached_property
    def identity(self) -> str:
        """The bytes of the projector file, and what computes with it."""
        with open(self._path, "rb") as file:
            return f"llama.cpp {self._computed_by} {hashlib.file_digest(file, 'sha256').hexdigest()}"

    def grid(self, image: ImageFile) -> Grid:
        return self.preprocessing.grid(image)

    def encode(self, image: ImageFile) -> NDArray[np.float32]:
        return self._encoder.encode(self.preprocessing.resized(image))

    def close(self) -> None:
        self._encoder.close()
