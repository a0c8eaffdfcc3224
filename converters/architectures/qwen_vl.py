"""The text decoders of Qwen3-VL ("qwen3vl", "qwen3vlmoe") and Qwen2.5-VL ("qwen2vl")."""

from converters.architectures import layers, qwen2, qwen2_5_vl_tower, qwen3, qwen3_moe, qwen3_vl_tower
from converters.architectures.family import MAX_LAYERS, Architecture, Config, Part, Stored, Weight, real
from converters.errors import InputError
from converters.llamacpp.container import Field, uint32

MAX_EPSILON = 1e-6


def _deepstack(config: Config, prefix: str) -> dict[str, Field]:
    """The number of first layers that add intermediate features of the vision encoder."""
    vision = config.get("vision_config") or {}
    indexes = vision.get("deepstack_visual_indexes", []) if isinstance(vision, dict) else None
    if not isinstance(indexes, list) or len(indexes) > MAX_LAYERS:
        raise InputError("config.json: vision_config.deepstack_visual_indexes is not a list of layers")
    return {f"{prefix}.n_deepstack_layers": uint32(len(indexes))}


def _require_mrope_section(config: Config) -> None:
    """llama.cpp requires the sections of the rotary embedding and has no default for them."""
    if layers.rope_parameters(config).get("mrope_section") is None:
        raise InputError("config.json: mrope_section is missing in rope_parameters or rope_scaling")


def dense_fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen3vl.`."""
    _require_mrope_section(config)
    return _renamed(qwen3.fields(config, mtp), "qwen3", "qwen3vl") | _deepstack(config, "qwen3vl")


def moe_fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen3vlmoe.`. transformers always scales chosen experts' weights to sum 1."""
    _require_mrope_section(config)
    scaled = {**config, "norm_topk_prob": config.get("norm_topk_prob", True)}
    return _renamed(qwen3_moe.fields(scaled, mtp), "qwen3moe", "qwen3vlmoe") | _deepstack(config, "qwen3vlmoe")


def _renamed(fields: dict[str, Field], old: str, new: str) -> dict[str, Field]:
    return {f"{new}.{key.removeprefix(f'{old}.')}": field for key, field in fields.items()}


def moe_weights(config: Config, mtp: int, stored: Stored) -> tuple[Weight, ...]:
    """Qwen3-MoE's tensors. Published checkpoints have the experts fused and transposed: [E, D, 2X] and [E, X, D]."""
    plain = qwen3_moe.weights(config, mtp, stored)
    dims = layers.sizes(config, qwen3_moe.head_dim(config))
    experts, width, inner = dims["E"], dims["D"], dims["X"]
    if not _experts_are_transposed(stored, experts, width, inner):
        return plain
    # kind -> tensor, its shape, the columns of each expert's block that become rows
    places = {
        "gate": ("gate_up_proj", (experts, width, 2 * inner), (0, inner)),
        "up": ("gate_up_proj", (experts, width, 2 * inner), (inner, 2 * inner)),
        "down": ("down_proj", (experts, inner, width), (0, width)),
    }

    def transposed(weight: Weight) -> Weight:
        _, block, tensor = weight.name.split(".")[:3] if weight.name.startswith("blk.") else ("", "", "")
        if not tensor.endswith("_exps"):
            return weight
        name, shape, columns = places[tensor.removeprefix("ffn_").removesuffix("_exps")]
        source, rows = f"model.layers.{block}.mlp.experts.{name}", shape[1]
        parts = tuple(Part(source, shape, i * rows, (i + 1) * rows, columns) for i in range(experts))
        return Weight(weight.name, weight.shape, parts)

    return tuple(map(transposed, plain))


def _experts_are_transposed(stored: Stored, experts: int, width: int, inner: int) -> bool:
    """Whether fused experts are stored as published, and not as transformers saves them.

    One tensor may be square (gate_up_proj if the width is 2X, down_proj if it is X), and then its shape fits both, but
    never both tensors. Therefore the tensors of all layers decide together; one that fits neither is reported later.
    Raises InputError if some fit only the one and some only the other.
    """
    # tensor -> its shape as transformers saves it, and as published
    shapes = {
        "gate_up_proj": ((experts, 2 * inner, width), (experts, width, 2 * inner)),
        "down_proj": ((experts, width, inner), (experts, inner, width)),
    }
    deciding: dict[bool, str] = {}  # whether a tensor is transposed -> the first tensor that says so
    for name, shape in stored.items():
        _, found, tensor = name.rpartition(".mlp.experts.")
        if found and tensor in shapes and (shape == shapes[tensor][0]) != (shape == shapes[tensor][1]):
            deciding.setdefault(shape == shapes[tensor][1], f"{name} {shape}")
    if len(deciding) == 2:
        readings = [f"gate_up_proj {shapes['gate_up_proj'][i]} and down_proj {shapes['down_proj'][i]}" for i in (0, 1)]
        raise InputError(
            f"config.json: fused experts are either {readings[0]} (as transformers saves them) or {readings[1]} (as"
            f" published), but {deciding[False]} fits only the first and {deciding[True]} only the second"
        )
    return True in deciding


def qwen2_fields(config: Config, mtp: int) -> dict[str, Field]:
    """The metadata keys that begin with `qwen2vl.`. llama.cpp reads no epsilon for it and uses 0, close to 1e-6."""
    _require_mrope_section(config)
    epsilon = real(config, "rms_norm_eps", 1e-5)
    if epsilon > MAX_EPSILON:
        raise InputError(
            f"config.json: rms_norm_eps is {epsilon:g}; llama.cpp uses 0 for qwen2vl, so at most 1e-6 is supported"
        )
    return layers.common_fields(config, "qwen2vl", mtp) | layers.rope_fields(config, "qwen2vl")


ARCHITECTURES = (
    Architecture(
        "qwen3vl", ("Qwen3VLForConditionalGeneration",), dense_fields, qwen3.weights, tower=qwen3_vl_tower.TOWER
    ),
    Architecture(
        "qwen3vlmoe", ("Qwen3VLMoeForConditionalGeneration",), moe_fields, moe_weights, tower=qwen3_vl_tower.TOWER
    ),
    Architecture(
        "qwen2vl", ("Qwen2_5_VLForConditionalGeneration",), qwen2_fields, qwen2.weights, tower=qwen2_5_vl_tower.TOWER
    ),
)
