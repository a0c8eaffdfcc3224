"""An ImageEncoder that uses the vision tower of a transformers model."""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from converters.errors import InputError
from images.file import ImageFile
from images.preprocessing import Grid, Preprocessing
from int8.tower import encode_image
from sweep.backends.batch_limit import out_of_memory_as_input_error


class TorchImageEncoder:
    """See ImageEncoder. Raises InputError if the model has no tower, or another one than `preprocessing` is for."""

    def __init__(self, model: PreTrainedModel, preprocessing: Preprocessing) -> None:
        config = getattr(model.config, "vision_config", None)
        if config is None or not hasattr(model.base_model, "get_image_features"):
            raise InputError(f"{model.config.name_or_path}: this model has no vision tower, so it takes no images")
        tower = (config.patch_size, config.spatial_merge_size, config.temporal_patch_size)
        settings = (preprocessing.patch, preprocessing.merge, preprocessing.frames)
        if tower != settings:
            raise InputError(
                f"{model.config.name_or_path}: patch size, merge size and frames are {settings} in the settings of the "
                f"image processor, but {tower} in config.json"
            )
        self._model = model
        self.preprocessing = preprocessing
        stacked = len(getattr(config, "deepstack_visual_indexes", None) or ())
        self.width: int = model.config.get_text_config().hidden_size * (1 + stacked)

    @cached_property
    def identity(self) -> str:
        """The tower's modules and weights, its dtype and device, and the libraries that compute with it."""
        tower: Any = self._model.base_model.visual
        found = hashlib.sha256(repr(tower).encode())
        for name, tensor in tower.state_dict().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        libraries = [f"{name} {version(name)}" for name in ("torch", "transformers")]
        return " ".join(["torch", self._model.device.type, found.hexdigest(), *libraries])

    def grid(self, image: ImageFile) -> Grid:
        return self.preprocessing.grid(image)

    @torch.inference_mode()
    def encode(self, image: ImageFile) -> NDArray[np.float32]:
        tokens, device = self.grid(image).tokens, self._model.device
        with out_of_memory_as_input_error(device, f"{image.name}: an image of {tokens} tokens does not fit"):
            layers = encode_image(self._model.base_model, self.preprocessing, image, device)
        embeddings: NDArray[np.float32] = torch.cat(layers, dim=1).float().cpu().numpy()
        return embeddings
