"""The vision tower of a transformers model: images to embeddings, the inputs of the decoder at the images' tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from images.file import ImageFile
from images.preprocessing import Grid, Preprocessing

TOWER = "visual"
"""The tower's name in the model without its head."""


def patch_grid(grid: Grid, preprocessing: Preprocessing) -> list[int]:
    """An image's size in patches, as transformers has it: frames, rows, columns."""
    return [1, grid.rows * preprocessing.merge, grid.columns * preprocessing.merge]


@torch.no_grad()
def encode_image(base: Any, preprocessing: Preprocessing, image: ImageFile, device: torch.device) -> list[Tensor]:
    """The features of an image, [tokens, width] each: first the decoder's inputs, then what DeepStack adds to the
    outputs of its first layers. `base` is a model without its head, whose tower is on `device`. Raises InputError."""
    patches = torch.from_numpy(preprocessing.patches(preprocessing.resized(image)))
    grid = torch.tensor([patch_grid(preprocessing.grid(image), preprocessing)], device=device)
    found = base.get_image_features(pixel_values=patches.to(device), image_grid_thw=grid)
    return [layer[0] for layer in (found.pooler_output, *(getattr(found, "deepstack_features", None) or ()))]


def tower_outputs(base: nn.Module) -> list[nn.Linear]:
    """The linear layers whose outputs are features of images, which enter the decoder beside the embeddings: the last
    ones of the merger and of DeepStack's. Empty without a tower."""
    tower = getattr(base, TOWER, None)
    if tower is None:
        return []
    mergers = [tower.merger, *getattr(tower, "deepstack_merger_list", ())]
    return [last_linear(merger) for merger in mergers]


def last_linear(merger: nn.Module) -> nn.Linear:
    """The last linear layer of a merger."""
    return [module for module in merger.modules() if isinstance(module, nn.Linear)][-1]
