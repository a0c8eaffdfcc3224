"""Configs of tiny models of every architecture: those of the catalogue with small sizes."""

import json
from pathlib import Path
from typing import Any

from presets.catalogue import models

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 8192,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 256, "num_experts": 8, "num_experts_per_tok": 2}
LINEAR: dict[str, Any] = {
    "num_hidden_layers": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "shared_expert_intermediate_size": 256,
}
LAYERS = ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 2

ARCHITECTURES = {
    "qwen3": ("Qwen3-4B", SMALL),
    "qwen3moe": ("Qwen3-30B-A3B", SMALL | EXPERTS),
    "qwen3next": ("Qwen3-Next-80B-A3B-Instruct", SMALL | EXPERTS | LINEAR),
    "qwen35": ("Qwen3.5-27B", SMALL | LINEAR | {"layer_types": LAYERS}),
    "qwen35moe": ("Qwen3.5-397B-A17B", SMALL | EXPERTS | LINEAR | {"layer_types": LAYERS}),
}


def write_config(directory: Path, architecture: str, **settings: object) -> Path:
    """A directory that contains only the config.json of such a model."""
    published, small = ARCHITECTURES[architecture]
    directory.mkdir(parents=True, exist_ok=True)
    config = {**models()[published].config, **small, **settings}
    (directory / "config.json").write_text(json.dumps(config))
    return directory
