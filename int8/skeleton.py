"""A model without weights, from its config alone."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSpeechSeq2Seq,
    PretrainedConfig,
    PreTrainedModel,
)

from converters.errors import InputError
from int8.architectures import SPEECH
from int8.experts import separate_experts
from int8.tower import TOWER


def skeleton(path: Path, config: PretrainedConfig, *, tower: bool) -> PreTrainedModel:
    """The model that the config of `path` describes, without weights, with separate experts. Raises InputError.

    `tower`: with its vision tower, if the config has one.
    """
    kind = AutoModelForCausalLM if vision_config(config) is None else AutoModelForImageTextToText
    if config.model_type in SPEECH:  # AutoModelForCausalLM would give its decoder alone
        kind = AutoModelForSpeechSeq2Seq
    try:
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path / 'config.json'}: {' '.join(str(error).split())[:300]}") from error
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if any(buffer.is_meta for buffer in child.buffers(recurse=False)):  # RoPE's frequencies, from the config
                setattr(parent, name, type(child)(config=child.config))
    separate_experts(model)
    if not tower:
        remove_tower(model)
    return model


def vision_config(config: PretrainedConfig) -> PretrainedConfig | None:
    """The config of the vision tower; None for a model of text alone."""
    found: PretrainedConfig | None = getattr(config, "vision_config", None)
    return found


def remove_tower(model: PreTrainedModel) -> None:
    """Take the vision tower, if there is one, out of a model, which then reads only text."""
    if hasattr(model.base_model, TOWER):
        delattr(model.base_model, TOWER)
