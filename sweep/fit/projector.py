"""The memory of the vision encoder and its projector, in addition to the text model, computed from `vision_config`.

llama.cpp stores them in a separate file (mmproj): matrices and the position table in float16, biases and norms in
float32. Source of the architecture: the vision models of Qwen3-VL and Qwen3.5 in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.errors import InputError
from sweep.fit.fit_report import FitFigure

NOT_COUNTED = FitFigure(0, "formula", "not counted; --projector counts it")
_KEYS = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "in_channels",
    "patch_size",
    "temporal_patch_size",
    "spatial_merge_size",
    "num_position_embeddings",
    "out_hidden_size",
)


def projector_figure(config: Mapping[str, Any], name: str) -> FitFigure:
    """Bytes of the encoder that `config` describes, without its activations, which depend on the image.

    `name` is the model's name in messages. Raises InputError if the config does not describe a vision encoder.
    """
    vision = config.get("vision_config")
    sizes: dict[str, Any] = {key: vision.get(key) if isinstance(vision, Mapping) else None for key in _KEYS}
    unknown = [key for key, size in sizes.items() if type(size) is not int or not 0 < size < 1 << 20]
    if unknown:
        raise InputError(
            f"{name}: its config has no valid {unknown[0]} of a vision encoder; give the whole config.json of a model"
            " of the Qwen3-VL, Qwen3.5 or Qwen3.6 family, or run without --projector"
        )
    depth, hidden, inner, channels, patch, frames, merge, positions, out = (sizes[key] for key in _KEYS)
    deepstack = vision.get("deepstack_visual_indexes") or [] if isinstance(vision, Mapping) else []
    merged = hidden * merge**2
    mergers = 1 + len(deepstack)
    matrices = {
        "patches": hidden * channels * frames * patch**2,
        "positions": positions * hidden,
        "blocks": depth * (4 * hidden**2 + 2 * hidden * inner),
        "mergers": mergers * (merged**2 + merged * out),
    }
    # qkv, output, two of the feed-forward, two norms of weight and bias; a merger's norm and two biases
    vectors = hidden + depth * (9 * hidden + inner) + mergers * (merged + out) + 2 * hidden
    vectors += len(deepstack) * 2 * merged  # these normalize after merging
    counts = ", ".join(f"{key} {count}" for key, count in matrices.items())
    return FitFigure(
        2 * sum(matrices.values()) + 4 * vectors,
        "formula",
        f"2 B per weight of matrices ({counts}) + 4 B x {vectors} of biases and norms; activations are not counted",
    )
