"""The architectures that int8 supports, as a table: the folds and the attention modules of each architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from converters.checkpoint import read_config
from converters.errors import InputError
from converters.purpose import require_language_model
from int8.recipe import Fold


class Spread(Enum):
    """Which columns of a consumer read a given channel of the producer. A merger has one head per merged patch."""

    SAME = "same"  # the column with the same number
    QUERY_HEADS = "query heads"  # in grouped-query attention: one column in each query head that shares the KV head
    ALL_HEADS = "all heads"  # one column in every head, because the producer has the weights of one head


class ProducerKind(Enum):
    """What a producer is, which decides how its output is divided."""

    LINEAR = "linear"  # divide the rows of the weight, and the bias
    VALUES = "values"  # the same for the last third of the rows, which computes V in a layer for Q, K and V
    NORM = "norm"  # divide the weight, and the bias of a LayerNorm
    NORM_ONE_PLUS = "norm that multiplies by 1 + weight"


@dataclass(frozen=True)
class FoldRule:
    """One fold of a layer, by module paths in it.

    `*` stands for the number of every expert. If the producer has it, each expert is a fold of its own.
    """

    fold: Fold
    producer: str
    consumers: tuple[str, ...]
    kind: ProducerKind = ProducerKind.LINEAR
    spread: Spread = Spread.SAME


# Attention takes weighted sums of values, and a gate multiplies the result: neither mixes the channels of a head.
ATTENTION = (
    FoldRule(
        Fold.NORM_QKV,
        "input_layernorm",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ProducerKind.NORM,
    ),
    FoldRule(Fold.V_O, "self_attn.v_proj", ("self_attn.o_proj",), spread=Spread.QUERY_HEADS),
)
# The norm before out_proj has the weights of one head. Scales on its input would be normalized away, so only its output
# is scaled.
_DELTANET_OUT = FoldRule(Fold.V_O, "linear_attn.norm", ("linear_attn.out_proj",), ProducerKind.NORM, Spread.ALL_HEADS)
_QWEN3_NEXT_INPUTS = ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba")
_QWEN3_5_INPUTS = (
    "linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_b", "linear_attn.in_proj_a",
)  # fmt: skip
QWEN3_NEXT_DELTANET = (FoldRule(Fold.NORM_QKV, "input_layernorm", _QWEN3_NEXT_INPUTS, ProducerKind.NORM), _DELTANET_OUT)
QWEN3_5_DELTANET = (FoldRule(Fold.NORM_QKV, "input_layernorm", _QWEN3_5_INPUTS, ProducerKind.NORM), _DELTANET_OUT)
MLP = (
    FoldRule(Fold.NORM_GATE_UP, "post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), ProducerKind.NORM),
    FoldRule(Fold.UP_DOWN, "mlp.up_proj", ("mlp.down_proj",)),
)
# The router and the shared expert's gate read the same norm: they stay float, but their weights take the scales.
_EXPERT_INPUTS = ("mlp.gate", "mlp.experts.*.gate_proj", "mlp.experts.*.up_proj")
_SHARED_INPUTS = ("mlp.shared_expert_gate", "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj")
_EXPERT_DOWN = FoldRule(Fold.UP_DOWN, "mlp.experts.*.up_proj", ("mlp.experts.*.down_proj",))
MOE = (FoldRule(Fold.NORM_GATE_UP, "post_attention_layernorm", _EXPERT_INPUTS, ProducerKind.NORM), _EXPERT_DOWN)
SHARED_MOE = (
    FoldRule(Fold.NORM_GATE_UP, "post_attention_layernorm", _EXPERT_INPUTS + _SHARED_INPUTS, ProducerKind.NORM),
    _EXPERT_DOWN,
    FoldRule(Fold.UP_DOWN, "mlp.shared_expert.up_proj", ("mlp.shared_expert.down_proj",)),
)


# In a vision tower. None through GELU, which is no multiplication.
TOWER_BLOCK = (
    FoldRule(Fold.NORM_QKV, "norm1", ("attn.qkv",), ProducerKind.NORM),
    FoldRule(Fold.V_O, "attn.qkv", ("attn.proj",), ProducerKind.VALUES),
    FoldRule(Fold.NORM_GATE_UP, "norm2", ("mlp.linear_fc1",), ProducerKind.NORM),
    FoldRule(Fold.NORM_GATE_UP, "norm2", ("mlp.gate_proj", "mlp.up_proj"), ProducerKind.NORM),  # Qwen2.5-VL
    FoldRule(Fold.UP_DOWN, "mlp.up_proj", ("mlp.down_proj",)),
)
# The norm is before the patches are merged, except in DeepStack's mergers, where it has weights for all of them.
TOWER_MERGER = (
    FoldRule(Fold.NORM_GATE_UP, "norm", ("linear_fc1",), ProducerKind.NORM, Spread.ALL_HEADS),
    FoldRule(Fold.NORM_GATE_UP, "ln_q", ("mlp.0",), ProducerKind.NORM, Spread.ALL_HEADS),  # Qwen2.5-VL
)


def _one_plus(*tables: tuple[FoldRule, ...]) -> tuple[FoldRule, ...]:
    """The rules, with a layer's two norms as Qwen3-Next has them (1 + weight). The norm inside DeltaNet is plain."""
    return tuple(
        replace(rule, kind=ProducerKind.NORM_ONE_PLUS) if rule.producer.endswith("layernorm") else rule
        for table in tables
        for rule in table
    )


@dataclass(frozen=True)
class AttentionModules:
    """Softmax attention in a layer: its path in the layer, and the modules in it that recipes and sizes refer to.

    The inputs of `query_norm` and `key_norm` are Q and K after the projection (without the gate that some models
    project together with Q). Without these norms (None), they are the outputs of `query` and `key`. The output of
    `value` is V, and the input of `output` is all query heads.
    """

    path: str = "self_attn"
    query_norm: str | None = "q_norm"
    key_norm: str | None = "k_norm"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"

    @property
    def modules(self) -> tuple[str, ...]:
        norms = tuple(norm for norm in (self.query_norm, self.key_norm) if norm is not None)
        return (*norms, self.query, self.key, self.value, self.output)


@dataclass(frozen=True)
class QuantizableArchitecture:
    """What int8 knows of an architecture.

    A fold applies to a layer that has its producer and all consumers, because the layers of a model differ (attention
    or DeltaNet, experts or one MLP). `attention` has the modules of Q, K and V. `routers` are paths of weights in a
    layer that transformers keeps as parameters of a class of its own, so they are not linear layers to quantize.
    `cross_attention` has Q from the decoder, and K and V from the encoder.
    """

    folds: tuple[FoldRule, ...]
    attention: AttentionModules = AttentionModules()
    routers: tuple[str, ...] = ("mlp.gate",)
    cross_attention: AttentionModules | None = None

    @property
    def attentions(self) -> tuple[AttentionModules, ...]:
        return (self.attention,) if self.cross_attention is None else (self.attention, self.cross_attention)


_PLAIN = QuantizableArchitecture(ATTENTION + MLP)
_WITHOUT_NORMS = QuantizableArchitecture(ATTENTION + MLP, AttentionModules(query_norm=None, key_norm=None))
_MOE = QuantizableArchitecture(ATTENTION + MOE + MLP)

ARCHITECTURES: dict[str, QuantizableArchitecture] = {
    "llama": _WITHOUT_NORMS,
    "qwen2": _WITHOUT_NORMS,
    "qwen2_5_vl_text": _WITHOUT_NORMS,
    "qwen2_moe": replace(_WITHOUT_NORMS, folds=ATTENTION + SHARED_MOE),
    "qwen3": _PLAIN,
    "qwen3_vl_text": _PLAIN,
    "qwen3_moe": _MOE,
    "qwen3_vl_moe_text": _MOE,
    "qwen3_next": QuantizableArchitecture(_one_plus(ATTENTION, QWEN3_NEXT_DELTANET, SHARED_MOE, MLP)),
    "qwen3_5_text": QuantizableArchitecture(_one_plus(ATTENTION, QWEN3_5_DELTANET, MLP)),
    "qwen3_5_moe_text": QuantizableArchitecture(_one_plus(ATTENTION, QWEN3_5_DELTANET, SHARED_MOE)),
}
"""model_type of the text config -> architecture."""

# Both stacks of Whisper. There is no fold into fc2: GELU is no multiplication.
_WHISPER_LAYER = (
    FoldRule(
        Fold.NORM_QKV,
        "self_attn_layer_norm",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ProducerKind.NORM,
    ),
    FoldRule(Fold.V_O, "self_attn.v_proj", ("self_attn.out_proj",)),
    FoldRule(Fold.NORM_QKV, "encoder_attn_layer_norm", ("encoder_attn.q_proj",), ProducerKind.NORM),
    FoldRule(Fold.V_O, "encoder_attn.v_proj", ("encoder_attn.out_proj",)),
    FoldRule(Fold.NORM_GATE_UP, "final_layer_norm", ("fc1",), ProducerKind.NORM),
)
_WHISPER_ATTENTION = AttentionModules(query_norm=None, key_norm=None, output="out_proj")
SPEECH: dict[str, QuantizableArchitecture] = {
    "whisper": QuantizableArchitecture(
        _WHISPER_LAYER, _WHISPER_ATTENTION, cross_attention=replace(_WHISPER_ATTENTION, path="encoder_attn")
    ),
}
"""Speech models with an encoder and a decoder, by model_type."""
ENCODER_OUTPUT = FoldRule(
    Fold.NORM_QKV,
    "encoder.layer_norm",
    ("decoder.layers.*.encoder_attn.k_proj", "decoder.layers.*.encoder_attn.v_proj"),
    ProducerKind.NORM,
)
"""The fold of a speech model outside its layers, by paths in the model without its head: the cross-attention of every
decoder layer reads the same states. `*` stands for the number of every decoder layer."""


def architecture(model_type: str) -> QuantizableArchitecture | None:
    """What int8 knows of an architecture; None if it knows nothing."""
    return ARCHITECTURES.get(model_type) or SPEECH.get(model_type)


_WITHOUT_TEXT_CONFIG = {"qwen2_5_vl": "qwen2_5_vl_text"}


def text_type(config: Mapping[str, Any]) -> str:
    """The model_type of the text model, from config.json with the entries of `text_config` at its root.

    Some published configs of multi-modal models have no `text_config`.
    """
    model_type = str(config.get("model_type"))
    return _WITHOUT_TEXT_CONFIG.get(model_type, model_type)


def require_quantizable(path: Path) -> None:
    """Raise InputError if `path` has no checkpoint, an unsupported architecture, or a quantized checkpoint."""
    require_language_model(path.name, path)
    config = read_config(path)
    if config.get("model_type") not in SPEECH:
        require_known(text_type(config), f"{path / 'config.json'}: ")
    quantization = config.get("quantization_config") or config.get("compression_config")
    if quantization:
        unknown = "unknown method"
        method = quantization.get("quant_method", unknown) if isinstance(quantization, dict) else unknown
        raise InputError(
            f"{path / 'config.json'}: the checkpoint is already quantized ({method}); give the original checkpoint"
        )


def is_speech(path: Path) -> bool:
    """Whether the checkpoint `path` is of a speech model that int8 supports. Raises InputError for a wrong config."""
    return read_config(path).get("model_type") in SPEECH


def require_vision_config(path: Path, name: str) -> None:
    """Raise InputError, whose message begins with `name`, if the model in `path` has no vision tower."""
    if not isinstance(read_config(path).get("vision_config"), dict):
        raise InputError(f"{name}: {path.name} has no vision tower; leave +vision out")


def require_known(model_type: str, where: str = "") -> None:
    """Raise InputError, whose message begins with `where`, for an architecture that is not in ARCHITECTURES."""
    if model_type not in ARCHITECTURES:
        raise InputError(
            f"{where}int8 does not support the architecture {model_type!r}; supported are {', '.join(ARCHITECTURES)}"
        )
