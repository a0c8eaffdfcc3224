"""The architectures that int8 knows, as a table: the folds and the attention of each. Which one a checkpoint has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from converters.checkpoint import read_config
from converters.errors import InputError
from int8.recipe import Fold


class Spread(Enum):
    """Which columns of a consumer read a channel of the producer."""

    SAME = "same"  # the one of its number
    QUERY_HEADS = "query heads"  # in grouped-query attention, one in each query head that shares the KV head
    ALL_HEADS = "all heads"  # one in every head: the producer's weights are one head's


class ProducerKind(Enum):
    """What a producer is, and so how its output is divided."""

    LINEAR = "linear"  # rows of the weight, and the bias
    NORM = "norm"  # the weight
    NORM_ONE_PLUS = "norm that multiplies by 1 + weight"


@dataclass(frozen=True)
class Row:
    """One fold of a layer, by paths in it. `*` stands for every expert's number, a fold each if the producer has it."""

    fold: Fold
    producer: str
    consumers: tuple[str, ...]
    kind: ProducerKind = ProducerKind.LINEAR
    spread: Spread = Spread.SAME


# Attention weighs and adds values, and a gate multiplies what comes of them: neither mixes channels of a head.
ATTENTION = (
    Row(
        Fold.NORM_QKV,
        "input_layernorm",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ProducerKind.NORM,
    ),
    Row(Fold.V_O, "self_attn.v_proj", ("self_attn.o_proj",), spread=Spread.QUERY_HEADS),
)
# The norm before out_proj has one head's weights. Its input cannot take scales: they would not survive the norm.
_DELTANET_OUT = Row(Fold.V_O, "linear_attn.norm", ("linear_attn.out_proj",), ProducerKind.NORM, Spread.ALL_HEADS)
_QWEN3_NEXT_INPUTS = ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba")
_QWEN3_5_INPUTS = (
    "linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_b", "linear_attn.in_proj_a",
)  # fmt: skip
QWEN3_NEXT_DELTANET = (Row(Fold.NORM_QKV, "input_layernorm", _QWEN3_NEXT_INPUTS, ProducerKind.NORM), _DELTANET_OUT)
QWEN3_5_DELTANET = (Row(Fold.NORM_QKV, "input_layernorm", _QWEN3_5_INPUTS, ProducerKind.NORM), _DELTANET_OUT)
MLP = (
    Row(Fold.NORM_GATE_UP, "post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), ProducerKind.NORM),
    Row(Fold.UP_DOWN, "mlp.up_proj", ("mlp.down_proj",)),
)
# The router and the shared expert's gate read the same norm: they stay float, but take its scales.
_EXPERT_INPUTS = ("mlp.gate", "mlp.experts.*.gate_proj", "mlp.experts.*.up_proj")
_SHARED_INPUTS = ("mlp.shared_expert_gate", "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj")
_EXPERT_DOWN = Row(Fold.UP_DOWN, "mlp.experts.*.up_proj", ("mlp.experts.*.down_proj",))
MOE = (Row(Fold.NORM_GATE_UP, "post_attention_layernorm", _EXPERT_INPUTS, ProducerKind.NORM), _EXPERT_DOWN)
SHARED_MOE = (
    Row(Fold.NORM_GATE_UP, "post_attention_layernorm", _EXPERT_INPUTS + _SHARED_INPUTS, ProducerKind.NORM),
    _EXPERT_DOWN,
    Row(Fold.UP_DOWN, "mlp.shared_expert.up_proj", ("mlp.shared_expert.down_proj",)),
)


def _one_plus(*tables: tuple[Row, ...]) -> tuple[Row, ...]:
    """With the two norms of a layer as Qwen3-Next has them; the one inside DeltaNet is a plain one there too."""
    return tuple(
        replace(row, kind=ProducerKind.NORM_ONE_PLUS) if row.producer.endswith("layernorm") else row
        for table in tables
        for row in table
    )


@dataclass(frozen=True)
class AttentionModules:
    """Softmax attention in a layer: its path there, and the modules in it that recipes and predictions go by.

    The inputs of `query_norm` and `key_norm` are Q and K as they are projected (without the gate that some models
    project beside Q), the output of `value` is V, and the input of `output` is all query heads.
    """

    path: str = "self_attn"
    query_norm: str = "q_norm"
    key_norm: str = "k_norm"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"

    @property
    def modules(self) -> tuple[str, ...]:
        return (self.query_norm, self.key_norm, self.key, self.value, self.output)


@dataclass(frozen=True)
class QuantizableArchitecture:
    """What int8 knows of an architecture. A fold belongs to a layer that has the producer and all consumers: layers of
    one model differ (attention or DeltaNet, experts or one MLP).

    `attention` is where Q, K and V are met. `routers` are paths in a layer whose weights transformers keeps as
    parameters of a class of its own, so that they are no linear layers to quantize.
    """

    folds: tuple[Row, ...]
    attention: AttentionModules = AttentionModules()
    routers: tuple[str, ...] = ("mlp.gate",)


ARCHITECTURES: dict[str, QuantizableArchitecture] = {
    "qwen3": QuantizableArchitecture(ATTENTION + MLP),
    "qwen3_moe": QuantizableArchitecture(ATTENTION + MOE + MLP),
    "qwen3_next": QuantizableArchitecture(_one_plus(ATTENTION, QWEN3_NEXT_DELTANET, SHARED_MOE, MLP)),
    "qwen3_5_text": QuantizableArchitecture(_one_plus(ATTENTION, QWEN3_5_DELTANET, MLP)),
    "qwen3_5_moe_text": QuantizableArchitecture(_one_plus(ATTENTION, QWEN3_5_DELTANET, SHARED_MOE)),
}
"""By the text config's model_type."""


def require_quantizable(path: Path) -> None:
    """Raises InputError if this directory holds no checkpoint, none of a known architecture, or a quantized one."""
    config = read_config(path)
    require_known(str(config.get("model_type")), f"{path / 'config.json'}: ")
    quantization = config.get("quantization_config") or config.get("compression_config")
    if quantization:
        method = quantization.get("quant_method", "some way") if isinstance(quantization, dict) else "some way"
        raise InputError(
            f"{path / 'config.json'}: the checkpoint is quantized already ({method}); give the original one"
        )


def require_known(model_type: str, where: str = "") -> None:
    """Raises InputError, which begins with `where`, for an architecture that ARCHITECTURES does not know."""
    if model_type not in ARCHITECTURES:
        raise InputError(
            f"{where}int8 does not know the architecture {model_type!r}; known are {', '.join(ARCHITECTURES)}"
        )
