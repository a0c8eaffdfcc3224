"""A checkpoint as a transformers model, prepared for calibration: only the text decoder, with separate experts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from converters.errors import InputError
from int8.architectures import require_known, require_quantizable
from int8.experts import separate_experts


@dataclass(frozen=True)
class Decoder:
    """The decoder of a model: its layers, their path in the model, and its key in the table of architectures."""

    module: nn.Module
    path: str
    layers: nn.ModuleList
    model_type: str


def open_model(path: Path, dtype: str = "auto") -> PreTrainedModel:
    """Load a checkpoint directory on the CPU; `dtype` "auto" keeps the checkpoint's dtype.

    Raises InputError for anything but a directory with a float checkpoint of a supported architecture.
    """
    if path.is_file():
        raise InputError(f"{path}: int8 needs a Hugging Face checkpoint; give its directory")
    require_quantizable(path)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # transformers' errors for a bad directory
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: transformers cannot load this checkpoint: {reason}") from error
    separate_experts(model)
    decoder_of(model)
    return model.eval()


def decoder_of(model: PreTrainedModel) -> Decoder:
    """The decoder of a model. Raises InputError for an architecture that is not in ARCHITECTURES."""
    module = model.get_decoder()
    model_type = module.config.model_type
    require_known(model_type)
    name = next(name for name, found in model.named_modules() if found is module)
    return Decoder(module, f"{name}.layers", module.layers, model_type)
