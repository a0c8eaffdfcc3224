"""A checkpoint as a transformers model, prepared for calibration, with separate experts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from converters.errors import InputError
from int8.architectures import require_known, require_quantizable
from int8.mapped_model import map_model, text_config
from int8.skeleton import remove_tower


@dataclass(frozen=True)
class Decoder:
    """The decoder of a model, or one of the two stacks of a speech model: its layers, their path in the model, and its
    key in the table of architectures.

    `base` is the model without its head: the decoder itself, or what also has the vision tower or the other stack.
    Keys of statistics begin with `prefix` and the layer's number.
    """

    base: Any
    module: Any
    path: str
    layers: nn.ModuleList
    model_type: str
    prefix: str = ""

    def key(self, index: int) -> str:
        """What the keys of statistics of a layer begin with."""
        return f"{self.prefix}{index}"


def open_model(path: Path, dtype: str = "auto") -> PreTrainedModel:
    """Open a checkpoint directory, with separate experts; its weights stay in the files until they are read.

    `dtype` "auto" keeps the checkpoint's dtype; see `map_model`. Raises InputError for anything but a directory with a
    float checkpoint of a supported architecture.
    """
    if path.is_file():
        raise InputError(f"{path}: int8 needs a Hugging Face checkpoint; give its directory")
    require_quantizable(path)
    model = map_model(path, dtype)
    decoder_of(model)
    return model


def load_checkpoint(path: Path, dtype: str = "auto", *, images: bool = False) -> PreTrainedModel:
    """Load a checkpoint directory with transformers, on the CPU; `dtype` "auto" keeps the checkpoint's dtype.

    With `images`, the model has its vision tower.

    The config of a multi-modal model may say only at its root that the head is tied to the embeddings; then it is tied
    here too. Raises InputError if transformers cannot load it or a tensor is missing, which transformers would fill
    with random values.
    """
    source = {"trust_remote_code": False, "local_files_only": True}
    config = text_config(path)
    try:
        has_own_class = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # for the text model alone
        kind = AutoModelForImageTextToText if images or not has_own_class else AutoModelForCausalLM
        model, found = kind.from_pretrained(
            path,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            **source,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # transformers' errors for a bad directory
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: transformers cannot load this checkpoint: {reason}") from error
    if found["missing_keys"]:
        name = min(found["missing_keys"])
        why = "; tie_word_embeddings in config.json is not true" if name == "lm_head.weight" else ""
        raise InputError(f"{path}: tensor {name!r} is missing{why}")
    loaded: PreTrainedModel = model
    if not images:
        remove_tower(loaded)
    return loaded


def has_tied_head(model: PreTrainedModel) -> bool:
    """Whether the head is the embeddings, whatever the config says: a checkpoint can have a head of its own."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def decoder_of(model: PreTrainedModel) -> Decoder:
    """The decoder of a model. Raises InputError for an architecture that is not in ARCHITECTURES."""
    module: Any = model.get_decoder()
    model_type = module.config.model_type
    require_known(model_type)
    name = next(name for name, found in model.named_modules() if found is module)
    return Decoder(model.base_model, module, f"{name}.layers", module.layers, model_type)
