"""What the vision towers of several families have in common: metadata keys, the patch embedding, tables of tensors.

Each row of a table has the name in the checkpoint, the name in GGUF and the dimensions as letters: D embedding,
T three embeddings (queries, keys and values in one matrix), F feed-forward, M the embeddings that the projector merges
into one, O embedding of the text model, N learned positions.

Source of the names: the vision models of Qwen2.5-VL and Qwen3-VL in transformers, and llama.cpp's `conversion/`.
"""

from collections.abc import Mapping
from typing import Any

from converters.architectures.family import MAX_LAYERS, Config, Part, Weight, all_rows, integer
from converters.architectures.layers import Table
from converters.errors import InputError
from converters.llamacpp.container import Field, GGUFHeader, boolean, float32, string, text, uint32, whole_number

MAX_WIDTH = 1 << 16  # of the tower; a patch embedding has a `Part` for each channel of each output
CHANNELS, FRAMES, MERGE = 3, 2, 2
"""llama.cpp's graphs are written for three colors, two frames per patch, and merging 2 x 2 patches to a token."""
EPSILON = 1e-6
"""Of the tower's norms. transformers has it as a constant, whatever the epsilon of the text model is."""

NAME = "vision_config"


def named(vision: Config) -> dict[str, Any]:
    """A vision config with its keys as error messages should name them."""
    return {f"{NAME}.{key}": value for key, value in vision.items()}


def size(vision: Config, key: str, default: int | None = None, high: int = MAX_WIDTH) -> int:
    """Read a whole number of the vision config. Raises InputError."""
    return integer(named(vision), f"{NAME}.{key}", default, high=high)


def depth(vision: Config) -> int:
    """The number of blocks."""
    return size(vision, "depth", high=MAX_LAYERS)


def require(vision: Config, key: str, allowed: object, default: object) -> None:
    """Raise InputError if a setting has a value that llama.cpp cannot do."""
    value = vision.get(key)
    value = default if value is None else value
    if value != allowed:
        raise InputError(
            f"config.json: {NAME}.{key} is {str(value)[:40]}; llama.cpp supports only {allowed} for this vision tower"
        )


def sizes(vision: Config, width: int, patch: int) -> dict[str, int]:
    """Letter -> dimension. `width` is the embedding of the text model, `patch` the default for a missing patch_size.

    Raises InputError for a tower that is not made for this text model, or that llama.cpp cannot run.
    """
    for key, allowed in (("temporal_patch_size", FRAMES), ("spatial_merge_size", MERGE), ("in_channels", CHANNELS)):
        require(vision, key, allowed, allowed)
    embedding, heads = size(vision, "hidden_size"), size(vision, "num_heads")
    if embedding % heads or embedding // heads % 4:  # two axes, and pairs of elements are rotated
        raise InputError(
            f"config.json: {NAME}.hidden_size {embedding} with num_heads {heads}; each head needs a whole multiple of 4"
        )
    out = size(vision, "out_hidden_size")
    if out != width:
        raise InputError(
            f"config.json: {NAME}.out_hidden_size is {out}, but the text model's hidden_size is {width}; the vision"
            " tower belongs to another model"
        )
    return {
        "D": embedding,
        "T": 3 * embedding,
        "F": size(vision, "intermediate_size"),
        "M": MERGE**2 * embedding,
        "O": out,
        "P": size(vision, "patch_size", patch, high=1 << 10),
    }


def common_fields(vision: Config, dims: Mapping[str, int], image: int, projector: str) -> dict[str, Field]:
    """The keys that all towers have. `image` is the side of the square picture for which a size has to be stated."""
    return {
        "clip.has_vision_encoder": boolean(True),
        "clip.vision.projection_dim": uint32(dims["O"]),
        "clip.vision.image_size": uint32(image),
        "clip.vision.patch_size": uint32(dims["P"]),
        "clip.vision.embedding_length": uint32(dims["D"]),
        "clip.vision.feed_forward_length": uint32(dims["F"]),
        "clip.vision.block_count": uint32(depth(vision)),
        "clip.vision.attention.head_count": uint32(size(vision, "num_heads")),
        "clip.vision.attention.layer_norm_epsilon": float32(EPSILON),
        "clip.projector_type": string(projector),
    }


# key of the vision config -> key after "clip.vision."
_CONFIG_KEYS = {
    "depth": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_heads": "attention.head_count",
    "out_hidden_size": "projection_dim",
    "patch_size": "patch_size",
}


def common_config(header: GGUFHeader) -> dict[str, Any]:
    """The vision config that a file's keys state. Raises InputError for a key of another type."""
    return {
        key: whole_number(header.path, header.metadata, f"clip.vision.{source}", 0)
        for key, source in _CONFIG_KEYS.items()
        if f"clip.vision.{source}" in header.metadata
    }


def projector_type(header: GGUFHeader) -> str:
    """The kind of projector in a file; "" if the file is none."""
    is_projector = header.architecture == "clip"
    return text(header.metadata, "clip.projector_type") if is_projector else ""


def patch_weights(dims: Mapping[str, int]) -> tuple[Weight, ...]:
    """The patch embedding, a convolution over two frames [D, 3, 2, P, P], as one convolution for each frame."""
    source, outputs, side = "visual.patch_embed.proj.weight", dims["D"], dims["P"]
    shape = (outputs, CHANNELS, FRAMES, side, side)

    def frame(number: int) -> tuple[Part, ...]:
        firsts = range(number * side, outputs * CHANNELS * FRAMES * side, FRAMES * side)
        return tuple(Part(source, shape, first, first + side) for first in firsts)

    own = (outputs, CHANNELS, side, side)
    return (
        Weight("v.patch_embd.weight", own, frame(0)),
        Weight("v.patch_embd.weight.1", own, frame(1)),
    )


def table_weights(table: Table, source: str, target: str, dims: Mapping[str, int]) -> list[Weight]:
    """The tensors of a table without changes; `source` and `target` are what comes before their names."""
    result = []
    for name, own, letters in table:
        shape = tuple(dims[letter] for letter in letters)
        result.append(Weight(f"{target}{own}", shape, (all_rows(f"{source}{name}", *shape),)))
    return result
