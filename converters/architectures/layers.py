"""What the layers of several families have in common: metadata keys and tables of tensors.

Each row of a table has the name in the checkpoint, the name in GGUF and the dimensions as letters: V vocabulary,
D embedding, F feed-forward, Q all query heads, P query heads with their gates, K all key heads, H one head, E experts,
X an expert's feed-forward, S the shared expert's feed-forward.
"""

from collections.abc import Iterable

from converters.architectures.family import (
    MAX_EXPERTS,
    MAX_EXPERTS_IN_ALL,
    MAX_LAYERS,
    Config,
    Part,
    Stored,
    Weight,
    all_rows,
    integer,
    real,
    require_value,
)
from converters.errors import InputError
from converters.llamacpp.container import Field, ValueType, float32, numbers, string, uint32

Table = Iterable[tuple[str, str, str]]

MODEL: Table = (
    ("model.embed_tokens.weight", "token_embd.weight", "VD"),
    ("model.norm.weight", "output_norm.weight", "D"),
    ("lm_head.weight", "output.weight", "VD"),
)
ATTENTION: Table = (
    ("self_attn.q_proj.weight", "attn_q.weight", "QD"),
    ("self_attn.k_proj.weight", "attn_k.weight", "KD"),
    ("self_attn.v_proj.weight", "attn_v.weight", "KD"),
    ("self_attn.o_proj.weight", "attn_output.weight", "DQ"),
)
ATTENTION_BIASES: Table = (
    ("self_attn.q_proj.bias", "attn_q.bias", "Q"),
    ("self_attn.k_proj.bias", "attn_k.bias", "K"),
    ("self_attn.v_proj.bias", "attn_v.bias", "K"),
)
HEAD_NORMS: Table = (
    ("self_attn.q_norm.weight", "attn_q_norm.weight", "H"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight", "H"),
)
NORMS: Table = (
    ("input_layernorm.weight", "attn_norm.weight", "D"),
    ("post_attention_layernorm.weight", "ffn_norm.weight", "D"),
)
FEED_FORWARD: Table = (
    ("mlp.gate_proj.weight", "ffn_gate.weight", "FD"),
    ("mlp.up_proj.weight", "ffn_up.weight", "FD"),
    ("mlp.down_proj.weight", "ffn_down.weight", "DF"),
)
ROUTER: Table = (("mlp.gate.weight", "ffn_gate_inp.weight", "ED"),)
SHARED_EXPERT: Table = (
    ("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", "1D"),
    ("mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", "SD"),
    ("mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", "SD"),
    ("mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", "DS"),
)

# GGUF key after the architecture's name <- config key
COMMON_KEYS = (
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
)
EXPERT_KEYS = (
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
)

EXPERT_COUNTS = ("num_experts", "num_local_experts")  # transformers 5 writes the second for some families

_OPTIONAL = {"F": "intermediate_size", "X": "moe_intermediate_size", "S": "shared_expert_intermediate_size"}


class Sizes(dict[str, int]):
    """Letter -> dimension. Raises InputError if a table needs a dimension that the config does not have."""

    def __missing__(self, letter: str) -> int:
        raise InputError(f"config.json: {_OPTIONAL.get(letter, EXPERT_COUNTS[0])} is missing or 0")


def sizes(config: Config, head_dim: int = 128) -> Sizes:
    """Read the dimensions from a config. `head_dim` is the default for a missing key.

    Raises InputError if the number of heads is not a multiple of the number of KV heads, or if a head's length is odd.
    """
    heads, kv_heads = integer(config, "num_attention_heads"), integer(config, "num_key_value_heads")
    if heads % kv_heads:
        raise InputError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    head = integer(config, "head_dim", head_dim)
    if head % 2:
        raise InputError(f"config.json: head_dim is {head}; rotary embedding needs an even length")
    result = Sizes({"V": integer(config, "vocab_size"), "D": integer(config, "hidden_size"), "1": 1})
    result |= {"Q": heads * head, "P": 2 * heads * head, "K": kv_heads * head, "H": head}
    result |= {letter: integer(config, key) for letter, key in _OPTIONAL.items() if config.get(key) not in (None, 0)}
    if expert_key(config) in config:
        result["E"] = integer(config, expert_key(config), high=MAX_EXPERTS)
        if result["E"] * layer_count(config) > MAX_EXPERTS_IN_ALL:
            raise InputError(
                f"config.json: {result['E']} experts in {layer_count(config)} layers; {MAX_EXPERTS_IN_ALL} is the limit"
            )
    return result


def expert_key(config: Config) -> str:
    """The key of the number of experts in this config."""
    return next((key for key in EXPERT_COUNTS if key in config), EXPERT_COUNTS[0])


def layer_count(config: Config) -> int:
    return integer(config, "num_hidden_layers", high=MAX_LAYERS)


def common_fields(config: Config, prefix: str, mtp: int = 0) -> dict[str, Field]:
    """The keys that all families have. `mtp` layers count as additional blocks at the end."""
    require_value(config, "hidden_act", "silu", "silu")
    require_value(config, "use_sliding_window", False, False)
    blocks = layer_count(config) + mtp
    if blocks > MAX_LAYERS:
        raise InputError(
            f"config.json: has {blocks} layers, {mtp} of them for MTP; llama.cpp supports at most {MAX_LAYERS}"
        )
    result = {f"{prefix}.block_count": uint32(blocks)}
    result |= {f"{prefix}.{key}": uint32(integer(config, source)) for key, source in COMMON_KEYS}
    if config.get("intermediate_size") not in (None, 0):
        result[f"{prefix}.feed_forward_length"] = uint32(integer(config, "intermediate_size"))
    result[f"{prefix}.attention.layer_norm_rms_epsilon"] = float32(real(config, "rms_norm_eps", 1e-6))
    if mtp:
        result[f"{prefix}.nextn_predict_layers"] = uint32(mtp)
    return result


def head_fields(config: Config, prefix: str, head_dim: int) -> dict[str, Field]:
    """The length of a head, which may differ from embedding / heads."""
    head = uint32(integer(config, "head_dim", head_dim))
    return {f"{prefix}.attention.key_length": head, f"{prefix}.attention.value_length": head}


def expert_fields(config: Config, prefix: str) -> dict[str, Field]:
    """The keys of a mixture of experts. Raises InputError for what llama.cpp's graphs for Qwen cannot express."""
    for key, allowed, default in (("decoder_sparse_step", 1, 1), ("mlp_only_layers", [], [])):
        require_value(config, key, allowed, default)
    used, experts = integer(config, "num_experts_per_tok"), integer(config, expert_key(config), high=MAX_EXPERTS)
    if used > experts:
        raise InputError(f"config.json: num_experts_per_tok is {used}, but {expert_key(config)} is only {experts}")
    stated = {f"{prefix}.{key}": uint32(integer(config, source)) for key, source in EXPERT_KEYS}
    return {f"{prefix}.expert_count": uint32(experts), **stated}


def rope_parameters(config: Config) -> Config:
    """Rotary settings: `rope_parameters` of transformers 5, or the older `rope_scaling` and keys at the root."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise InputError(f"config.json: rope_parameters is {parameters!r}, which is not a JSON object")
    older = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if config.get(key) is not None}
    return {**older, **parameters}


def rope_fields(config: Config, prefix: str, sections: tuple[int, ...] | None = None) -> dict[str, Field]:
    """The keys of rotary embedding. `sections` are the default multi-rope sections of a family that always has them."""
    parameters = rope_parameters(config)
    result = {f"{prefix}.rope.freq_base": float32(real(parameters, "rope_theta", 10_000.0))}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "linear", "yarn", "mrope"):
        raise InputError(f"config.json: rope_type {kind!r} is not supported; use default, linear, yarn or mrope")
    if kind in ("linear", "yarn"):
        result[f"{prefix}.rope.scaling.type"] = string(kind)
        result[f"{prefix}.rope.scaling.factor"] = float32(real(parameters, "factor"))
    if kind == "yarn":
        original = integer(parameters, "original_max_position_embeddings", config.get("max_position_embeddings"))
        result[f"{prefix}.rope.scaling.original_context_length"] = uint32(original)
        for key, sources in YARN_KEYS:
            found = next((source for source in sources if parameters.get(source) is not None), None)
            if found is not None:
                result[f"{prefix}.rope.scaling.{key}"] = float32(real(parameters, found))
    stated = parameters.get("mrope_section")
    if stated is not None or sections is not None:
        chosen = stated if stated is not None else list(sections or ())
        if (
            not isinstance(chosen, list)
            or not 1 <= len(chosen) <= 4
            or not all(type(n) is int and 0 <= n < 2**16 for n in chosen)
            or not any(chosen[:3])  # otherwise llama.cpp's graph aborts the process
        ):
            raise InputError(
                f"config.json: mrope_section is {str(stated)[:80]}; expected one to four whole numbers, not all 0"
            )
        padded = chosen + [0] * (4 - len(chosen))
        result[f"{prefix}.rope.dimension_sections"] = numbers(ValueType.INT32, padded)
    return result


# GGUF key after rope.scaling. <- its names in configs
YARN_KEYS = (
    ("yarn_ext_factor", ("extrapolation_factor",)),
    ("yarn_attn_factor", ("attention_factor", "attn_factor")),
    ("yarn_beta_fast", ("beta_fast",)),
    ("yarn_beta_slow", ("beta_slow",)),
)


def model_weights(config: Config, dims: Sizes) -> list[Weight]:
    """Embeddings, last norm and output. A tied output may be missing; if the checkpoint has it, it is written."""
    tied = config.get("tie_word_embeddings", False) is True
    return [
        Weight(target, shape, (all_rows(source, *shape),), optional=tied and source == "lm_head.weight")
        for source, target, shape in ((a, b, tuple(dims[letter] for letter in letters)) for a, b, letters in MODEL)
    ]


def table_weights(table: Table, source: str, block: int, dims: Sizes) -> list[Weight]:
    """The tensors of a table without changes, from the checkpoint's layer `source` to block `block` of the GGUF."""
    result = []
    for name, target, letters in table:
        shape = tuple(dims[letter] for letter in letters)
        result.append(Weight(f"blk.{block}.{target}", shape, (all_rows(f"{source}.{name}", *shape),)))
    return result


def expert_weights(source: str, block: int, dims: Sizes, stored: Stored) -> list[Weight]:
    """The experts of a layer, one tensor per kind: from fused tensors if the checkpoint has them, otherwise stacked."""
    experts, width, inner = dims["E"], dims["D"], dims["X"]
    shapes = {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
    if any(f"{source}.mlp.experts.{name}" in stored for name in ("gate_up_proj", "down_proj")):
        fused = (experts, 2 * inner, width)
        name = f"{source}.mlp.experts.gate_up_proj"
        firsts = range(0, experts * 2 * inner, 2 * inner)
        parts = {
            "gate": tuple(Part(name, fused, first, first + inner) for first in firsts),
            "up": tuple(Part(name, fused, first + inner, first + 2 * inner) for first in firsts),
        }
        parts["down"] = (all_rows(f"{source}.mlp.experts.down_proj", experts, width, inner),)
    else:
        parts = {
            kind: tuple(all_rows(f"{source}.mlp.experts.{i}.{kind}_proj.weight", *shape) for i in range(experts))
            for kind, shape in shapes.items()
        }
    return [
        Weight(f"blk.{block}.ffn_{kind}_exps.weight", (experts, *shape), parts[kind]) for kind, shape in shapes.items()
    ]
