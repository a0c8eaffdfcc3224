"""What variants of torch take, by formula: there is no file and no engine to ask.

Weights go by the recipe itself (int8.recipe_sizes): int8 with a float32 scale and an int32 row sum for each output
channel, all else in bfloat16. The cache is transformers' own, in bfloat16, or int8.
SmoothQuant: Xiao et al., arXiv 2211.10438.
"""

from __future__ import annotations

from collections.abc import Sequence

from converters.errors import InputError
from converters.huggingface_source import HuggingFaceSource
from converters.resolver import NO_CHECKPOINT
from converters.source import Source
from int8.recipe import PUBLISHED, Recipe, recipe
from int8.recipe_sizes import RecipeSizes, kv_cell_bytes, recipe_sizes
from sweep.fit.fit_report import ESTIMATE, FORMULA, HOST, MARGIN, DeviceShare, FitFigure, FitOptions, FitRow
from sweep.fit.formulas import ContextFormulas
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.registry import FitKind
from sweep.fit.subject import FitSubject

PREFIX = "int8:"
LOGITS_AT_ONCE = 512  # positions whose logits are held as float32


def sizes_of(source: Source, shape: ModelShape, recipe: Recipe | None, *, real: bool = True) -> RecipeSizes:
    """Of a model under a recipe, or in bfloat16 without one; `real` and not fake-quant.

    Raises InputError for a source that is no Hugging Face checkpoint or config.
    """
    if not isinstance(source, HuggingFaceSource):
        raise InputError(f"{source.path}: {NO_CHECKPOINT}")
    return recipe_sizes(
        source.parameters,
        recipe,
        str(source.config.get("model_type")),
        tied=source.config.get("tie_word_embeddings") is True,
        experts_used=shape.experts_used,
        real=real,
    )


def torch_figures(
    sizes: RecipeSizes, recipe: Recipe | None, formulas: ContextFormulas, shape: ModelShape, options: FitOptions
) -> dict[str, FitFigure]:
    """The parts of its memory.

    Activations are those of a prompt of `ubatch` tokens for each sequence, the widest two of a layer alive at once.
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
            f" x {options.context} tokens x {options.parallel} sequences",
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
    floats = f"2 B x {sizes.kept} weights kept bfloat16"
    if not sizes.quantized:
        return floats
    scales = f" + {sizes.static} B of static scales" if sizes.static else ""
    return (
        f"1 B x {sizes.quantized} weights + 8 B x {sizes.channels} output channels (scale, row sum){scales} + {floats}"
    )


def _state_formula(formulas: ContextFormulas, layers: int, options: FitOptions) -> str:
    if not layers:
        return "no linear-attention layers"
    return f"{layers} linear-attention layers x {formulas.explained_state} x {options.parallel} sequences"


def foreseen(source: Source, kind: str, recipe: Recipe | None, options: FitOptions) -> dict[str, float]:
    """Of a variant of torch before it is made: `file_bytes`, `bits_per_weight`, and the `memory_bytes` that it takes
    with a context. Its `kind` is "int8", "fq" or "torch"; the last has no recipe and is in bfloat16.

    `file_bytes` are of the tensors that will be written. Fake-quant holds what int8 does but row sums, and one linear
    layer in float32. Raises InputError.
    """
    shape = ModelShape.of(source.structure, source.tensors)
    sizes = sizes_of(source, shape, recipe, real=kind != "fq")
    figures = torch_figures(sizes, recipe, ContextFormulas.of(source.structure), shape, options)
    memory = sum(figure.bytes for figure in figures.values())
    if kind == "fq":
        memory += 4 * sizes.largest
    return {"file_bytes": sizes.file, "bits_per_weight": 8 * sizes.file / sizes.weights, "memory_bytes": memory}


def _recipe(name: str) -> Recipe:
    """Of a variant `int8:RECIPE`, a named one or a file of one."""
    try:
        return recipe(name.removeprefix(PREFIX))
    except InputError as error:
        raise InputError(f"{PREFIX}{error}") from error


def _known(name: str) -> str:
    _recipe(name)
    return name


def _offered(subject: FitSubject) -> list[str]:
    """The named recipes, of a checkpoint or its config."""
    return [PREFIX + name for name in PUBLISHED] if isinstance(subject.source, HuggingFaceSource) else []


def _rows(names: Sequence[str], subject: FitSubject) -> dict[str, FitRow]:
    return {name: _row(_recipe(name), subject) for name in names}


def _row(recipe: Recipe, subject: FitSubject) -> FitRow:
    return torch_row(f"{PREFIX}{recipe.name}", "int8", sizes_of(subject.source, subject.shape, recipe), recipe, subject)


def torch_row(variant: str, kind: str, model: RecipeSizes, recipe: Recipe | None, subject: FitSubject) -> FitRow:
    """All of a model of these sizes on the machine's first device, or in RAM where there is none. The recipe, if there
    is one, says how its cache is stored."""
    shape, machine, options, projector = subject.shape, subject.machine, subject.options, subject.projector
    formulas = ContextFormulas.of(subject.source.structure)
    figures = torch_figures(model, recipe, formulas, shape, options)
    device = machine.gpus[0] if machine.gpus else machine.host
    sizes = {f"{part}_bytes": figure.bytes for part, figure in figures.items()}
    sizes["weights_bytes"] += projector.bytes
    total = sum(sizes.values())
    usable, reserve = (device.usable_bytes, device.reserve_bytes) if device is not None else (total, 0)
    share = DeviceShare(device.name if device else HOST, **sizes, reserve_bytes=reserve, usable_bytes=usable)
    fixed = total - figures["kv"].bytes
    token = figures["kv"].bytes // options.context
    longest = min(shape.train_context, (usable - reserve - fixed) // token) if token else shape.train_context
    read = model.active + figures["kv"].bytes // options.parallel + 2 * figures["recurrent"].bytes // options.parallel
    bandwidth = device.bandwidth if device is not None else None
    return FitRow(
        variant=variant,
        kind=kind,
        file_bytes=model.file,
        bits_per_weight=8 * model.file / model.weights,
        figures={
            **figures,
            "projector": projector,
            "reserve": FitFigure(reserve, MARGIN, "kept free: the driver's own context and a margin"),
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
    )


INT8 = FitKind(_known, _offered, _rows)
