"""A model without weights, from its config alone."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from converters.errors import InputError
from int8.experts import separate_experts


def skeleton(path: Path, config: PretrainedConfig) -> PreTrainedModel:
    """The model that the config of `path` describes, without weights, with separate experts. Raises InputError."""
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path / 'config.json'}: {' '.join(str(error).split())[:300]}") from error
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if any(buffer.is_meta for buffer in child.buffers(recurse=False)):  # RoPE's frequencies, from the config
                setattr(parent, name, type(child)(config=model.config.get_text_config()))
    separate_experts(model)
    return model
