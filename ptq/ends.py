"""Embeddings and head in 8.5 bits per weight: groups of 32 with a 16-bit scale, rounded to nearest.

Most files leave them in 16 bits, which is much of a small model: a file of Qwen3-0.6B with 4-bit layers has 7.2 bits
per weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from int8.model import has_tied_head
from ptq.grid import GridWeight, round_to_nearest
from ptq.recipe import ENDS, PtqRecipe
from ptq.stored_weight import from_tensors, to_tensors

ROWS_AT_ONCE = 8192  # that are in float32 at the same time


@torch.no_grad()
def round_ends(model: PreTrainedModel, recipe: PtqRecipe) -> dict[str, GridWeight]:
    """Round the embeddings and a head of its own in place, if the recipe says so; their weights by module path."""
    if recipe.embedding_bits == 16:
        return {}
    found = {}
    for path, module in _ends(model):
        weight = module.get_parameter("weight")
        parts = [round_to_nearest(rows.float(), ENDS.grid, weight.dtype) for rows in weight.split(ROWS_AT_ONCE)]
        found[path] = GridWeight(
            torch.cat([one.codes for one in parts]), torch.cat([one.scale for one in parts]), None, ENDS.bits
        )
        weight.copy_(found[path].dequantized())
    return found


def end_tensors(rounded: Mapping[str, GridWeight]) -> dict[str, Tensor]:
    """The tensors of a file for the result of `round_ends`."""
    return {
        f"{path}.{kind}": held for path, weight in rounded.items() for kind, held in to_tensors(weight, ENDS).items()
    }


def fill_ends(model: PreTrainedModel, tensors: dict[str, Tensor], recipe: PtqRecipe, where: Path) -> None:
    """Put the values of rounded ends into `tensors` under the names of float weights. Raises InputError as
    `from_tensors` does."""
    if recipe.embedding_bits == 16:
        return
    for path, module in _ends(model):
        if f"{path}.weight_scale" in tensors:
            rows, columns = module.get_parameter("weight").shape
            tensors[f"{path}.weight"] = from_tensors(tensors, path, (rows, columns), ENDS, where).dequantized()


def _ends(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """The embeddings and, if it has weights of its own, the head, by their paths in the model."""
    ends = [model.get_input_embeddings()] + ([] if has_tied_head(model) else [model.get_output_embeddings()])
    for path, module in model.named_modules():
        if any(module is end for end in ends):
            yield path, module
