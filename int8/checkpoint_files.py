"""Writing and reading the files of a checkpoint of a transformers model, whatever its linear layers are stored as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from converters.atomic import make_public, sync
from converters.checkpoint import Checkpoint
from converters.errors import InputError
from int8.mapped_model import is_tower
from int8.model import has_tied_head

INDEX_FILE = "model.safetensors.index.json"


def config_table(model: PreTrainedModel) -> dict[str, Any]:
    """The content of config.json for a model, which says whether the head is the embeddings."""
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    config["architectures"] = [type(model).__name__]
    for table in (config, config.get("text_config") or {}):
        if "tie_word_embeddings" in table:
            table["tie_word_embeddings"] = has_tied_head(model)
    return config


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Raises OSError, SafetensorError, and InputError that names a tensor with values that
    are no numbers: nothing that reads them gives an answer."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _all_finite(tensor):
            raise InputError(
                f"{name}: has NaN or infinite values; the checkpoint is damaged: download it again, or its values are"
                f" too large for {str(tensor.dtype).removeprefix('torch.')}"
            )
    save_file(dict(tensors), path, {"format": "pt"})
    make_public(path)  # safetensors makes a file that only its owner may read
    sync(path)


def _all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. Nothing of the tensor's size is made: embeddings are large."""
    return not tensor.numel() or all(bool(torch.isfinite(end)) for end in tensor.aminmax())


def write_index(directory: Path, places: Mapping[str, str], size: int) -> None:
    """Write the index of a checkpoint: in which file each tensor is, and the bytes of all tensors."""
    write_json(directory / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": places})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file. Raises OSError."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sync(path)


def read_tensors(path: Path, extra: str = "", *, tower: bool) -> dict[str, Tensor]:
    """The tensors of a checkpoint, and those of the file `extra` if it is there. Raises InputError.

    `tower`: also those of the vision tower, which must be there then.
    """
    with Checkpoint.open(path) as checkpoint:  # checks the headers
        files = {tensor.path for tensor in checkpoint.tensors.values()}
        if tower and not any(map(is_tower, checkpoint.tensors)):
            raise InputError(f"{path}: has no vision tower, so it takes no images; remove it and quantize again")
    if extra and (path / extra).is_file():
        files.add(path / extra)
    try:
        return {
            name: tensor
            for file in sorted(files)
            for name, tensor in load_file(file).items()
            if tower or not is_tower(name)
        }
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def take_float_tensors(model: PreTrainedModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a skeleton the tensors that are not those of its quantized layers. Raises InputError if one is missing,
    unknown or of another shape."""
    try:
        left = model.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: tensors contradict the config: {' '.join(str(error).split())[:300]}") from error
    if not any(name in tensors for name in model.all_tied_weights_keys):  # otherwise its head is not the embeddings
        model.tie_weights()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise InputError(f"{path}: tensor {name!r} is missing")
    if left.unexpected_keys:
        raise InputError(f"{path}: tensor {left.unexpected_keys[0]!r} is not part of the model")
