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

TOLERANCE = 1e-6  # of normalization, which files store in float32


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
        checks = (
            ("the patch size", (self._encoder.patch_size,), (preprocessing.patch,)),
            ("the merge size", (self._encoder.merge_size,), (preprocessing.merge,)),
            ("the mean of pixels", self._encoder.mean, preprocessing.mean),
            ("the standard deviation of pixels", self._encoder.std, preprocessing.std),
        )
        for what, found, needed in checks:
            if len(found) != len(needed) or not np.allclose(found, needed, rtol=0, atol=TOLERANCE):
                self.close()
                raise InputError(
                    f"{path}: {what} is {found}, but {needed} in the settings of the checkpoint's image processor; "
                    "this projector file belongs to another model"
                )

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
