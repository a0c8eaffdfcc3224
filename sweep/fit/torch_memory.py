"""The memory of variants that run in torch, by formulas, because no engine computes it without loading the model.

The bytes of the weights follow from the recipe (int8.recipe_sizes): int8 with a float32 scale and an int32 row sum per
output channel, everything else in bfloat16. The KV cache is that of transformers, in bfloat16 or int8.
SmoothQuant: Xiao et al., arXiv 2211.10438.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from converters.errors import InputError
from converters.huggingface_source import HuggingFaceSource
from converters.resolver import NO_CHECKPOINT
from converters.source import Source
from int8.architectures import text_type
from int8.recipe import NAMED, PUBLISHED, Recipe, recipe
from int8.recipe_sizes import FLOAT_BYTES, Quantization, RecipeSizes, int8_quantization, kv_cell_bytes, recipe_sizes
from ptq.recipe import PtqRecipe
from sweep.fit.fit_inputs import FitInputs
from sweep.fit.fit_report import ESTIMATE, FORMULA, HOST, MARGIN, DeviceShare, FitFigure, FitOptions, FitRow
from sweep.fit.formulas import ContextFormulas, counted_sequences
from sweep.fit.hardware import reserve_formula
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.projector import NOT_COUNTED, torch_figure
from sweep.fit.registry import FitKind

PREFIX = "int8:"
_TOWER_PARTS = ("visual.blocks.", "visual.merger.", "visual.deepstack_merger_list.")
LOGITS_AT_ONCE = 512  # number of positions whose float32 logits are in memory at the same time


def sizes_of(source: Source, shape: ModelShape, recipe: Recipe | None, *, real: bool = True) -> RecipeSizes:
    """The sizes of a model with a recipe, or in bfloat16 if `recipe` is None; not `real` means fake-quant.

    Raises InputError for a source that is not a Hugging Face checkpoint or config.
    """
    if not isinstance(source, HuggingFaceSource):
        raise InputError(f"{source.path}: {NO_CHECKPOINT}")
    found = recipe_sizes(
        source.parameters,
        recipe,
        text_type(source.config),
        tied=source.config.get("tie_word_embeddings") is True,
        experts_used=shape.experts_used,
        head_width=ContextFormulas.of(source.structure).key_length,
        real=real,
    )
    stored = None if recipe is None else int8_quantization(recipe)
    return replace(found, tower=tower_bytes(source, recipe, stored))


def tower_bytes(
    source: HuggingFaceSource, recipe: Recipe | PtqRecipe | None = None, stored: Quantization | None = None
) -> int:
    """The bytes of the vision tower in a checkpoint of a quantized model; 0 without one.

    It stays in bfloat16, unless the recipe quantizes it; then its linear layers are as in `stored`.
    """
    shapes = source.tower_parameters
    if recipe is None or stored is None or not recipe.vision:
        return FLOAT_BYTES * sum(map(math.prod, shapes.values()))
    quantized = {
        path
        for name, shape in shapes.items()
        if len(shape) == 2 and name.startswith(_TOWER_PARTS) and not recipe.keeps(path := name.removesuffix(".weight"))
    }
    total = 0
    for name, shape in shapes.items():
        path, _, kind = name.rpartition(".")
        if path not in quantized:
            total += FLOAT_BYTES * math.prod(shape)
        elif kind == "weight":
            total += stored.bytes_of(shape[0], shape[1]).file
        else:
            total += stored.bias_bytes * math.prod(shape)
    return total


def torch_figures(
    sizes: RecipeSizes, recipe: Recipe | None, formulas: ContextFormulas, shape: ModelShape, options: FitOptions
) -> dict[str, FitFigure]:
    """The parts of the memory of a model with these sizes.

    Activations are those of a prompt of `ubatch` tokens per sequence; the two widest of a layer exist at the same time.
    """
    attention, recurrent, widest = shape.attention_layers, shape.linear_layers, sizes.widest
    rows = options.ubatch * options.parallel
    values, scales = kv_cell_bytes(recipe, formulas.kv_heads, formulas.key_length, formulas.value_length)
    widths = f"({formulas.key_length} K + {formulas.value_length} V)"
    cell_words = f"{widths} x {values // (formulas.kv_heads * (formulas.key_length + formulas.value_length))} B"
    if scales:
        cell_words = f"({cell_words} + {scales // formulas.kv_heads} B)"
    kv = attention * (values + scales) * options.context * options.parallel
    state = recurrent * formulas.state_bytes * options.parallel
    activations = rows * widest * (2 * 2 + 1 + 4)
    logits = min(rows, LOGITS_AT_ONCE) * formulas.vocabulary * 4
    return {
        "weights": FitFigure(sizes.loaded, FORMULA, _weights_formula(sizes)),
        "kv": FitFigure(
            kv,
            FORMULA,
            f"{attention} attention layers x {formulas.kv_heads} KV heads x {cell_words}"
            f" x {options.context} tokens x {counted_sequences(options.parallel)}",
        ),
        "recurrent": FitFigure(state, FORMULA, _state_formula(formulas, recurrent, options)),
        "compute": FitFigure(
            activations,
            ESTIMATE,
            f"{rows} rows x {widest} values x (2 bfloat16 copies + 1 B quantized + 4 B accumulator)",
        ),
        "output": FitFigure(logits, FORMULA, f"{min(rows, LOGITS_AT_ONCE)} rows x {formulas.vocabulary} logits x 4 B"),
    }


def _weights_formula(sizes: RecipeSizes) -> str:
    floats = f"2 B x {sizes.kept} weights in bfloat16"
    if not sizes.quantized:
        return floats
    scales = f" + {sizes.static} B of static scales" if sizes.static else ""
    return (
        f"1 B x {sizes.quantized} weights + 8 B x {sizes.channels} output channels (scale, row sum){scales} + {floats}"
    )


def _state_formula(formulas: ContextFormulas, layers: int, options: FitOptions) -> str:
    if not layers:
        return "no linear-attention layers"
    return f"{layers} linear-attention layers x {formulas.explained_state} x {counted_sequences(options.parallel)}"


def predicted_sizes(source: Source, kind: str, recipe: Recipe | None, options: FitOptions) -> dict[str, float]:
    """Predicted sizes of a torch variant before it is made: `file_bytes`, `bits_per_weight` and `memory_bytes`.

    `kind` is "int8", "fq" (fake-quant) or "torch", which has no recipe and is in bfloat16. `file_bytes` are those of
    the tensors that will be written, without a vision tower; `memory_bytes` include a context by `options`. Fake-quant
    needs the memory of int8 without row sums, plus one linear layer in float32. Raises InputError as `sizes_of` does.
    """
    shape = ModelShape.of(source.structure, source.tensors)
    sizes = sizes_of(source, shape, recipe, real=kind != "fq")
    figures = torch_figures(sizes, recipe, ContextFormulas.of(source.structure), shape, options)
    memory = sum(figure.bytes for figure in figures.values())
    if kind == "fq":
        memory += 4 * sizes.largest
    return {"file_bytes": sizes.file, "bits_per_weight": 8 * sizes.file / sizes.weights, "memory_bytes": memory}


def _recipe(name: str) -> Recipe:
    """The recipe of a variant `int8:RECIPE`, where RECIPE is a name or a file."""
    try:
        return recipe(name.removeprefix(PREFIX))
    except InputError as error:
        raise InputError(f"{PREFIX}{error}") from error


def _canonical_name(name: str) -> str:
    _recipe(name)
    return name


def _default_variants(inputs: FitInputs) -> list[str]:
    """The published recipes, if the model is a checkpoint or a config; otherwise none."""
    return [PREFIX + name for name in PUBLISHED] if isinstance(inputs.source, HuggingFaceSource) else []


def _rows(names: Sequence[str], inputs: FitInputs) -> dict[str, FitRow]:
    return {name: _row(_recipe(name), inputs) for name in names}


def _row(recipe: Recipe, inputs: FitInputs) -> FitRow:
    return torch_row(f"{PREFIX}{recipe.name}", "int8", sizes_of(inputs.source, inputs.shape, recipe), recipe, inputs)


def torch_row(variant: str, kind: str, model: RecipeSizes, recipe: Recipe | None, inputs: FitInputs) -> FitRow:
    """The row of a variant whose model of these sizes is entirely on the machine's first GPU, or in RAM without a GPU.

    `recipe` says how the KV cache is stored; None: in bfloat16.
    """
    shape, machine, options = inputs.shape, inputs.machine, inputs.options
    projector = NOT_COUNTED if inputs.projector is None else torch_figure(inputs.source)
    formulas = ContextFormulas.of(inputs.source.structure)
    figures = torch_figures(model, recipe, formulas, shape, options)
    device = machine.gpus[0] if machine.gpus else machine.host
    sizes = {f"{part}_bytes": figure.bytes for part, figure in figures.items()}
    sizes["weights_bytes"] += projector.bytes
    total = sum(sizes.values())
    usable, reserve = (device.usable_bytes, device.reserve_bytes) if device is not None else (total, 0)
    fixed = total - figures["kv"].bytes
    token = figures["kv"].bytes // options.context
    longest = min(shape.train_context, (usable - reserve - fixed) // token) if token else shape.train_context
    read = model.active + figures["kv"].bytes // options.parallel + 2 * figures["recurrent"].bytes // options.parallel
    bandwidth = device.bandwidth if device is not None else None
    share = DeviceShare(
        device.name if device else HOST, **sizes, reserve_bytes=reserve, usable_bytes=usable, read_bytes=read
    )
    return FitRow(
        variant=variant,
        kind=kind,
        file_bytes=model.file,
        bits_per_weight=8 * model.file / model.weights,
        figures={
            **figures,
            "projector": projector,
            "reserve": FitFigure(reserve, MARGIN, reserve_formula([] if device is None else [device])),
        },
        shares=(share,),
        total_bytes=total,
        fits=share.free_bytes >= 0,
        headroom_bytes=share.free_bytes,
        max_context=longest if longest > 0 else None,
        gpu_layers=shape.layers + 1 if machine.gpus else 0,
        n_layers=shape.layers + 1,
        cpu_moe_layers=0,
        tensor_split=(),
        arguments="",
        decode_bound=bandwidth / read if bandwidth is not None else None,
        placed_by="formula",
        file_exact=False,
        recipe=recipe.name if recipe is not None and recipe in NAMED.values() else None,
    )


INT8 = FitKind(_canonical_name, _default_variants, _rows)
