"""A quantized model's config as the compressed-tensors format has it, which vLLM and transformers read.

Format: github.com/vllm-project/compressed-tensors, "int-quantized" (int8 weights beside float scales). Q, K and V have
no place in it that readers honour, so what is quantized of attention is left out here; see int8.checkpoint.
"""

from __future__ import annotations

from typing import Any

from int8.recipe import Activations, Recipe

FORMAT = "int-quantized"

_INT8: dict[str, Any] = {"num_bits": 8, "type": "int"}
_ACTIVATIONS: dict[Activations, dict[str, Any] | None] = {
    Activations.STATIC: {**_INT8, "strategy": "tensor", "dynamic": False},
    Activations.DYNAMIC: {**_INT8, "strategy": "token", "dynamic": True},
    Activations.FLOAT: None,
}


def quantization_config(recipe: Recipe, ignored: list[str]) -> dict[str, Any]:
    """The entry `quantization_config` of config.json; `ignored` are the paths of linear layers that stay float."""
    activations = _ACTIVATIONS[recipe.activations]
    group = {
        "targets": ["Linear"],
        "weights": {**_INT8, "strategy": "channel", "symmetric": True, "dynamic": False},
        "input_activations": None if activations is None else {**activations, "symmetric": recipe.symmetric},
        "output_activations": None,
        "format": FORMAT,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
    }
