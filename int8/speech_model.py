"""A speech model with an encoder and a decoder (Whisper), as transformers opens it, and its two stacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, WhisperForConditionalGeneration

from converters.errors import InputError
from int8.model import Decoder

ENCODER, DECODER = "encoder", "decoder"


def open_speech_model(path: Path, dtype: str = "auto") -> PreTrainedModel:
    """Load a checkpoint directory on the CPU; `dtype` "auto" keeps the checkpoint's.

    Raises InputError if transformers cannot load it or a tensor is missing, which transformers would fill with random
    values.
    """
    try:
        model, found = WhisperForConditionalGeneration.from_pretrained(
            path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # transformers' errors for a bad directory
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: transformers cannot load this checkpoint: {reason}") from error
    if found["missing_keys"]:
        raise InputError(f"{path}: tensor {min(found['missing_keys'])!r} is missing")
    loaded: PreTrainedModel = model.eval()
    return loaded


def stack_of(model: PreTrainedModel, name: str) -> Decoder:
    """One of the two stacks, ENCODER or DECODER."""
    base: Any = model.base_model
    module = base.get_submodule(name)
    return Decoder(base, module, f"model.{name}.layers", module.layers, model.config.model_type, f"{name}.")


@torch.no_grad()
def embedded_features(model: PreTrainedModel, features: Tensor) -> Tensor:
    """The input of the encoder's first layer [windows, positions, width], from spectrograms [windows, bands, frames]:
    what transformers' encoder computes before its layers."""
    encoder: Any = model.get_submodule("model.encoder")
    hidden = torch.nn.functional.gelu(encoder.conv1(features))
    hidden = torch.nn.functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
    return hidden + encoder.embed_positions.weight[: hidden.shape[1]]


@torch.no_grad()
def embedded_tokens(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """The input of the decoder's first layer [sequences, length, width], from tokens [sequences, length]: what
    transformers' decoder computes before its layers."""
    decoder: Any = model.get_submodule("model.decoder")
    embedded: Tensor = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[: tokens.shape[1]]
    return embedded
