"""The size of a model after post-training quantization, from the shapes of its parameters: without torch or weights.

Bits are true: they count scales, zero points, masks and everything else that a file must hold, and the embeddings,
norms and other weights that stay in 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping

from converters.errors import InputError
from int8.recipe_sizes import FLOAT_BYTES, LinearBytes, Quantization, RecipeSizes, linear_groups, model_sizes
from ptq.recipe import ENDS, PtqRecipe
from ptq.stored_size import stored_bytes


def ptq_sizes(
    parameters: Mapping[str, tuple[int, ...]],
    recipe: PtqRecipe,
    model_type: str,
    *,
    tied: bool,
    experts_used: int,
) -> RecipeSizes:
    """Sizes of a model with these `parameters` under a recipe; see `int8.recipe_sizes.recipe_sizes` for the arguments.

    `loaded` is the memory of a program that computes with the stored weights, as vLLM does.
    """
    if tied and recipe.unties_head:
        parameters = {**parameters, "lm_head.weight": parameters["model.embed_tokens.weight"]}
        tied = False
    sizes = model_sizes(parameters, quantization(recipe), model_type, tied=tied, experts_used=experts_used)
    if recipe.embedding_bits < 16:
        for name in ("model.embed_tokens.weight",) if tied else ("model.embed_tokens.weight", "lm_head.weight"):
            rows, columns = parameters[name]
            saved = stored_bytes(rows, columns, ENDS) - FLOAT_BYTES * rows * columns
            read = tied or name == "lm_head.weight"  # a token reads only one row of the embeddings
            sizes += RecipeSizes(file=saved, loaded=saved, active=saved if read else 0)
    return sizes


def quantization(recipe: PtqRecipe) -> Quantization:
    """How a recipe stores linear layers."""

    def bytes_of(rows: int, columns: int) -> LinearBytes:
        size = stored_bytes(rows, columns, recipe)
        return LinearBytes(size, size)

    return Quantization(recipe.keep, bytes_of)


def require_divisible(parameters: Mapping[str, tuple[int, ...]], recipe: PtqRecipe, model_type: str) -> None:
    """Raise InputError that names a linear layer whose inputs the recipe's groups do not divide."""
    if not recipe.group:
        return
    for linear in linear_groups(parameters, model_type):
        path = next((path for path in linear.paths if not recipe.keeps(path)), None)
        if path is not None:
            require_groups(path, linear.columns, recipe)


def require_groups(path: str, columns: int, recipe: PtqRecipe) -> None:
    """Raise InputError that names the linear layer at `path` if the recipe's groups do not divide its inputs."""
    if recipe.group and columns % recipe.group:
        usable = [size for size in (128, 64, 32, 16) if columns % size == 0]
        remedy = f"use a group of {usable[0]}, or none" if usable else "use none"
        raise InputError(
            f"{recipe.name}: {path} has {columns} inputs, which groups of {recipe.group} do not divide;"
            f" {remedy} (one scale per row)"
        )
