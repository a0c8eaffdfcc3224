"""The vision tower and the mergers under a recipe: as the decoder's layers, part by part.

The parts and the folds are those of int8 (`int8.architectures`). A part reads the images after the parts before it,
which are quantized already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from converters.errors import InputError
from int8.architectures import TOWER_BLOCK, TOWER_MERGER
from int8.fold import matching_rules
from int8.on_device import in_float32
from int8.recipe import NEEDS_IMAGES
from int8.samples import ImagePrompts, Samples
from int8.tower import TOWER
from int8.tower_inputs import BLOCKS, TowerInputs, parts_of
from ptq.layer import LayerWork, QuantizedLayer
from ptq.recipe import PtqRecipe
from ptq.sizes import require_groups


def require_images(samples: Samples, recipe: PtqRecipe) -> None:
    """Raise InputError if the samples, which the recipe reads for the tower too, have no images."""
    if not (isinstance(samples, ImagePrompts) and samples.images):
        raise InputError(f"{recipe.name}: {NEEDS_IMAGES}")


def require_tower_divisible(base: Any, recipe: PtqRecipe) -> None:
    """Raise InputError that names a linear layer of the tower whose inputs the recipe's groups do not divide."""
    for name, part in parts_of(base.get_submodule(TOWER)):
        for path, module in part.named_modules():
            where = f"{base.base_model_prefix}.{TOWER}.{name}.{path}"
            if isinstance(module, nn.Linear) and not recipe.keeps(where):
                require_groups(where, module.in_features, recipe)


@torch.no_grad()
def quantize_tower(
    base: Any, recipe: PtqRecipe, samples: Samples, device: torch.device, dtype: torch.dtype
) -> dict[str, QuantizedLayer]:
    """Fold and round the tower of `base`, a model without its head, in place; its parts by their paths in the model.

    The rounded weights are in the result alone: those of the model are released. Parts are quantized on `device`, and
    what stays float is in `dtype`. Raises InputError as LayerWork does.
    """
    inputs = None
    if isinstance(samples, ImagePrompts) and recipe.needs_text:
        inputs = TowerInputs(base, samples.preprocessing, samples.images, device)
    parts, found = dict(parts_of(base.get_submodule(TOWER))), {}
    for name in parts if inputs is None else inputs.order:
        part, path = parts[name], f"{base.base_model_prefix}.{TOWER}.{name}"
        table = TOWER_BLOCK if name.startswith(BLOCKS) else TOWER_MERGER
        with in_float32(part, device, path):
            rules = matching_rules(part, table, recipe.folds)
            found[path] = LayerWork(part, name, path, "", rules, recipe, dtype, inputs).run()
        for linear in found[path].weights:
            part.get_submodule(linear).get_parameter("weight").data = torch.empty(0, dtype=dtype)
    return found
