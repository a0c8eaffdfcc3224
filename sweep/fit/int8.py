"""What the int8 recipes of the torch path take, by formula: there is no file and no engine to ask.

Weights of linear layers are one byte each, with a float32 scale and an int32 row sum (for asymmetric activations) for
each output channel; embeddings, output, norms, routers, convolutions and the small projections of linear attention stay
bfloat16. The cache is transformers' own, in bfloat16, or int8 with a float32 scale a token and head.
SmoothQuant: Xiao et al., arXiv 2211.10438.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from converters.llamacpp.container import TensorInfo
from converters.source import Source
from sweep.fit.formulas import ContextFormulas
from sweep.fit.layers import Shape
from sweep.fit.report import Figure, FitOptions

PREFIX = "int8:"

_FLOAT = re.compile(r"(^token_embd|^output|norm|ffn_gate_inp|ssm_conv1d|ssm_alpha|ssm_beta|ssm_ba|ssm_a$|ssm_dt|nextn)")
_BFLOAT16 = 2
_OUTPUT_CHANNEL = 8  # bytes: float32 scale, int32 sum of the row
_CACHES = {"bf16": (_BFLOAT16, 0), "int8": (1, 8)}
"""Bytes of a value, and of the scales of a head of K and V."""
LOGITS_AT_ONCE = 512  # positions whose logits are held as float32


@dataclass(frozen=True)
class Int8Model:
    """Bytes of a model's parts in int8: `linear` layers with their scales, and `floats`; of both `active` for a token.

    `weights` counts weights, `widest` the values of the widest activation of one token.
    """

    linear: int
    floats: int
    active: int
    weights: int
    widest: int

    @classmethod
    def of(cls, shape: Shape, tensors: Sequence[TensorInfo], *, quantized: bool = True) -> Int8Model:
        """Of the unquantized tensors, without layers of multi-token prediction, which transformers does not load.

        Not `quantized` is the model in bfloat16 that int8 is compared with.
        """
        linear = floats = active = weights = widest = 0
        for tensor, layer in zip(tensors, shape.layer_of, strict=True):
            if layer == -2:
                continue
            weights += tensor.elements
            if _FLOAT.search(tensor.name) or len(tensor.shape) < 2:
                floats += _BFLOAT16 * tensor.elements
                active += 0 if layer == -1 and not shape.tied else _BFLOAT16 * tensor.elements
                continue
            size = _BFLOAT16 * tensor.elements
            if quantized:
                size = tensor.elements + _OUTPUT_CHANNEL * math.prod(tensor.shape[:-1])
            linear += size
            expert = "_exps." in tensor.name
            active += size * shape.experts_used // shape.experts if expert and shape.experts else size
            widest = max(widest, tensor.shape[-2] * (shape.experts_used if expert else 1))
        return cls(linear, floats, active, weights, widest)


def int8_figures(
    model: Int8Model, formulas: ContextFormulas, shape: Shape, options: FitOptions, kv_type: str = "bf16"
) -> dict[str, Figure]:
    """The parts of its memory, the cache being "bf16" or "int8".

    Activations are those of a prompt of `ubatch` tokens for each sequence, the widest two of a layer alive at once.
    """
    attention, recurrent, widest = shape.attention_layers, shape.linear_layers, model.widest
    rows = options.ubatch * options.parallel
    value_bytes, head_bytes = _CACHES[kv_type]
    widths = f"({formulas.key_length} K + {formulas.value_length} V)"
    cell_words = f"{widths} x {value_bytes} B" if not head_bytes else f"({widths} x {value_bytes} B + {head_bytes} B)"
    cell = formulas.kv_heads * ((formulas.key_length + formulas.value_length) * value_bytes + head_bytes)
    kv = attention * cell * options.context * options.parallel
    state = recurrent * formulas.state_bytes * options.parallel
    activations = rows * widest * (2 * _BFLOAT16 + 1 + 4)
    logits = min(rows, LOGITS_AT_ONCE) * formulas.vocabulary * 4
    return {
        "weights": Figure(
            model.linear + model.floats,
            "formula",
            "1 B a weight of linear layers + 8 B an output channel (scale, row sum) + 2 B a weight kept bfloat16",
        ),
        "kv": Figure(
            kv,
            "formula",
            f"{attention} attention layers x {formulas.kv_heads} KV heads x {cell_words}"
            f" x {options.context} tokens x {options.parallel} sequences",
        ),
        "recurrent": Figure(state, "formula", _state_formula(formulas, recurrent, options)),
        "compute": Figure(
            activations,
            "estimate",
            f"{rows} rows x {widest} values x (2 bfloat16 copies + 1 B quantized + 4 B accumulator)",
        ),
        "output": Figure(logits, "formula", f"{min(rows, LOGITS_AT_ONCE)} rows x {formulas.vocabulary} logits x 4 B"),
    }


def _state_formula(formulas: ContextFormulas, layers: int, options: FitOptions) -> str:
    if not layers:
        return "no linear-attention layers"
    return f"{layers} linear-attention layers x {formulas.explained_state} x {options.parallel} sequences"


def foreseen(source: Source, kind: str, kv_type: str, options: FitOptions) -> dict[str, float]:
    """Of a variant of torch ("int8", "fq" or "torch") before it is made: `file_bytes`, `bits_per_weight`, and the
    `memory_bytes` that it takes with a context. Fake-quant holds what int8 does, and one linear layer in float32.
    """
    shape = Shape.of(source.structure, source.tensors)
    model = Int8Model.of(shape, source.tensors, quantized=kind != "torch")
    figures = int8_figures(model, ContextFormulas.of(source.structure), shape, options, kv_type)
    memory = sum(figure.bytes for figure in figures.values())
    if kind == "fq":
        linear = (t for t in source.tensors if len(t.shape) == 2 and not _FLOAT.search(t.name))
        memory += 4 * max((tensor.elements for tensor in linear), default=0)
    weights = figures["weights"].bytes
    return {"file_bytes": weights, "bits_per_weight": 8 * weights / model.weights, "memory_bytes": memory}
