"""The memory of variants of post-training quantization, by formula, for a program that computes with packed weights.

Such a program, vLLM for example, holds the weights as they are stored, and the KV cache in bfloat16. bitsweep itself
measures these variants with dequantized weights, which need as much memory as the float model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from converters.errors import InputError
from converters.huggingface_source import HuggingFaceSource
from converters.resolver import NO_CHECKPOINT
from converters.source import Source
from int8.architectures import text_type
from int8.recipe_sizes import RecipeSizes
from ptq.recipe import PtqRecipe, recipe
from ptq.sizes import ptq_sizes, quantization, require_divisible
from sweep.fit.fit_inputs import FitInputs
from sweep.fit.fit_report import FitRow
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.registry import FitKind
from sweep.fit.torch_memory import torch_row, tower_bytes


def sizes_of(source: Source, recipe: PtqRecipe) -> RecipeSizes:
    """The sizes of a model with a recipe. Raises InputError for a source that is not a Hugging Face checkpoint or
    config, and for groups that do not divide its rows."""
    if not isinstance(source, HuggingFaceSource):
        raise InputError(f"{source.path}: {NO_CHECKPOINT}")
    model_type = text_type(source.config)
    require_divisible(source.parameters, recipe, model_type)
    found = ptq_sizes(
        source.parameters,
        recipe,
        model_type,
        tied=source.config.get("tie_word_embeddings") is True,
        experts_used=ModelShape.of(source.structure, source.tensors).experts_used,
    )
    return replace(found, tower=tower_bytes(source, recipe, quantization(recipe)))


def _rows(names: Sequence[str], inputs: FitInputs) -> dict[str, FitRow]:
    sizes = {name: sizes_of(inputs.source, recipe(name)) for name in names}
    return {name: torch_row(name, "ptq", size, None, inputs) for name, size in sizes.items()}


PTQ = FitKind(lambda name: recipe(name).name, lambda inputs: [], _rows)
