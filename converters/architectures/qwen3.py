"""Qwen3 dense (Qwen3ForCausalLM): keys and names as llama.cpp's loader of "qwen3" expects them. No value is changed."""

from converters.architectures.family import Architecture, Config, Weight, integer, real
from converters.errors import InputError
from converters.llamacpp.container import Field, float32, string, uint32

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS: more of them abort the process

# GGUF key after "qwen3." <- config key
INTEGER_KEYS = (
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
)

# checkpoint name, GGUF name, shape. Dimensions: V vocabulary, D embedding, F feed-forward, Q and K all heads, H a head.
MODEL_TENSORS = (
    ("model.embed_tokens.weight", "token_embd.weight", "VD"),
    ("model.norm.weight", "output_norm.weight", "D"),
    ("lm_head.weight", "output.weight", "VD"),
)
LAYER_TENSORS = (
    ("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", "D"),
    ("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", "QD"),
    ("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", "KD"),
    ("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", "KD"),
    ("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", "DQ"),
    ("model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", "H"),
    ("model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", "H"),
    ("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", "D"),
    ("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", "FD"),
    ("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", "FD"),
    ("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", "DF"),
)

# Settings that change what the model computes and that llama.cpp's qwen3 does not know: key, the only value allowed.
FIXED = (("hidden_act", "silu"), ("attention_bias", False), ("use_sliding_window", False))


def fields(config: Config) -> dict[str, Field]:
    """The metadata under `qwen3.`."""
    for key, allowed in FIXED:
        if config.get(key, allowed) != allowed:
            raise InputError(f"config.json: {key} is {config[key]!r}; llama.cpp's qwen3 can only do {allowed!r}")
    result = {f"qwen3.{key}": uint32(integer(config, source)) for key, source in INTEGER_KEYS}
    result["qwen3.attention.layer_norm_rms_epsilon"] = float32(real(config, "rms_norm_eps", 1e-6))
    head = _head_dim(config)
    result["qwen3.attention.key_length"] = uint32(head)
    result["qwen3.attention.value_length"] = uint32(head)
    return result | rope_fields(config, "qwen3")


def rope_fields(config: Config, prefix: str) -> dict[str, Field]:
    """Rotary position keys. transformers 5 keeps them in `rope_parameters`, before it rope_theta and `rope_scaling`."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise InputError(f"config.json: rope_parameters is {parameters!r}, no object")
    theta = real(parameters, "rope_theta", config.get("rope_theta", 10_000.0))
    result = {f"{prefix}.rope.freq_base": float32(theta)}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "linear", "yarn"):
        raise InputError(f"config.json: rope_type {kind!r} is not supported; default, linear and yarn are")
    if kind != "default":
        result[f"{prefix}.rope.scaling.type"] = string(kind)
        result[f"{prefix}.rope.scaling.factor"] = float32(real(parameters, "factor"))
    if kind == "yarn":
        original = integer(parameters, "original_max_position_embeddings", config.get("max_position_embeddings"))
        result[f"{prefix}.rope.scaling.original_context_length"] = uint32(original)
    return result


def weights(config: Config) -> tuple[Weight, ...]:
    """All tensors. `lm_head.weight` may be missing if the embeddings are tied; where it is there, it is written."""
    heads, kv_heads = integer(config, "num_attention_heads"), integer(config, "num_key_value_heads")
    if heads % kv_heads:
        raise InputError(f"config.json: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    head = _head_dim(config)
    sizes = {
        "V": integer(config, "vocab_size"),
        "D": integer(config, "hidden_size"),
        "F": integer(config, "intermediate_size"),
        "Q": heads * head,
        "K": kv_heads * head,
        "H": head,
    }
    tied = config.get("tie_word_embeddings", False) is True
    layers = integer(config, "num_hidden_layers", high=MAX_LAYERS)
    rows = list(MODEL_TENSORS)
    rows += [(a.format(i), b.format(i), dims) for i in range(layers) for a, b, dims in LAYER_TENSORS]
    return tuple(
        Weight(
            name=name,
            shape=tuple(sizes[dim] for dim in dims),
            source=source,
            always_f32=len(dims) == 1,
            optional=source == "lm_head.weight" and tied,
        )
        for source, name, dims in rows
    )


def _head_dim(config: Config) -> int:
    head = integer(config, "head_dim", 128)  # 128 is what transformers takes where the key is missing
    if head % 2:
        raise InputError(f"config.json: head_dim is {head}; rotary embedding needs an even one")
    return head


ARCHITECTURE = Architecture(
    name="qwen3",
    classes=("Qwen3ForCausalLM",),
    fields=fields,
    weights=weights,
    ignored=(".rotary_emb.inv_freq",),
)
