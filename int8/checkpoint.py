"""A calibrated model as a directory, which can be loaded without the original checkpoint.

    config.json, model-*.safetensors (+ index), tokenizer   compressed-tensors, which vLLM and transformers read
    int8.json                                               the recipe and a record of the calibration
    int8-attention.safetensors                              scales of Q, K and V, if the recipe quantizes them

The last two files are additions to the format: other readers run the same linear layers, with attention in float.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from converters.atomic import make_public, sync
from converters.checkpoint import Checkpoint, read_json
from converters.errors import InputError
from int8.arithmetic import Quantizer
from int8.atomic_directory import atomic_directory
from int8.compressed_tensors import from_file, quantization_config, take_tensor, to_file
from int8.experts import separate_experts
from int8.fakequant import (
    FakeQuantize,
    FakeQuantLinear,
    add_quantizer,
    attach_attention,
    attentions,
    quantized_parts,
    replace_linear,
)
from int8.model import has_tied_head
from int8.recipe import Recipe, from_table
from int8.tokenizer import copy_tokenizer

RECIPE_FILE, ATTENTION_FILE = "int8.json", "int8-attention.safetensors"
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class CalibrationRecord:
    """What a saved model was calibrated on: the text's name, number and length of samples, tokens per expert."""

    text: str | None
    samples: int = 0
    length: int = 0
    expert_tokens: dict[str, int] | None = None

    def tokens_by_layer(self) -> dict[str, list[int]]:
        """The tokens of each expert, by the number of their layer."""
        layers: dict[str, list[int]] = {}
        for key, count in (self.expert_tokens or {}).items():
            layers.setdefault(key.partition(".")[0], []).append(count)
        return layers


def save(
    model: PreTrainedModel,
    recipe: Recipe,
    calibration: CalibrationRecord,
    source: Path,
    out: Path,
    *,
    origin: str | None = None,
    replace: bool = False,
) -> int:
    """Write a fake-quant model, with the tokenizer of the checkpoint `source`. Returns the bytes of its tensors.

    `out` must not exist or must be empty, unless `replace`; it appears complete or not at all. `origin` is a text to
    store beside the recipe. Raises InputError if it cannot be written.
    """
    try:
        with atomic_directory(out, replace) as temporary_path:
            size = _write_tensors(model, recipe, temporary_path)
            _write_json(temporary_path / "config.json", _config(model, recipe))
            about: dict[str, Any] = {"recipe": recipe.to_json(), "calibration": asdict(calibration)}
            if origin is not None:
                about["origin"] = origin
            _write_json(temporary_path / RECIPE_FILE, about)
            copy_tokenizer(source, temporary_path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{out}: cannot be written: {error}") from error
    return size


def is_int8(path: Path) -> bool:
    """Whether `path` is a directory written by `save`."""
    return (path / RECIPE_FILE).is_file()


def read_recipe(path: Path) -> Recipe:
    """The recipe of a saved model. Raises InputError if there is none or it is invalid."""
    table = read_json(path / RECIPE_FILE).get("recipe")
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise InputError(f"{path / RECIPE_FILE}: has no recipe; quantize the model again")
    values = {key: value for key, value in table.items() if key != "name"}
    return from_table(values, str(path / RECIPE_FILE), table["name"])


def read_calibration(path: Path) -> CalibrationRecord:
    """The calibration record of a saved model. Raises InputError if there is none."""
    table = read_json(path / RECIPE_FILE).get("calibration")
    if not isinstance(table, dict) or set(table) != {entry.name for entry in fields(CalibrationRecord)}:
        raise InputError(f"{path / RECIPE_FILE}: has no record of the calibration; quantize the model again")
    return CalibrationRecord(**table)


def load(path: Path) -> tuple[PreTrainedModel, Recipe]:
    """A saved model as fake-quant on the CPU, in evaluation mode, with transformers' interface; and its recipe.

    Raises InputError for a directory that `save` did not write, and for tensors that are missing or contradict the
    config.
    """
    if not is_int8(path):
        raise InputError(f"{path}: has no {RECIPE_FILE}; give a directory that `sweep int8` wrote")
    recipe = read_recipe(path)
    with Checkpoint.open(path) as checkpoint:  # checks the headers
        files = {tensor.path for tensor in checkpoint.tensors.values()}
    try:
        tensors = {name: tensor for file in sorted(files) for name, tensor in load_file(file).items()}
        if (path / ATTENTION_FILE).is_file():
            tensors |= load_file(path / ATTENTION_FILE)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    model = skeleton(path, _read_config(path))
    _fill(model, recipe, tensors, path)
    attach_attention(model, recipe)
    return model.eval(), recipe


def _config(model: PreTrainedModel, recipe: Recipe) -> dict[str, Any]:
    quantized = {name for name, module in model.named_modules() if isinstance(module, FakeQuantLinear)}
    float_layers = [
        name
        for name, module in model.named_modules()
        # Other readers may implement routers as linear layers, so they are listed as float too.
        if name not in quantized and (isinstance(module, nn.Linear) or recipe.keeps(name))
    ]
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    config["architectures"] = [type(model).__name__]
    for table in (config, config.get("text_config") or {}):
        if "tie_word_embeddings" in table:
            table["tie_word_embeddings"] = has_tied_head(model)
    return {**config, "quantization_config": quantization_config(recipe, float_layers)}


def _write_tensors(model: PreTrainedModel, recipe: Recipe, directory: Path) -> int:
    shards: list[dict[str, Tensor]] = [{}]
    attention: dict[str, Tensor] = {}
    sizes = [0]
    for name, tensor in _stored(model, recipe):
        if "_quantizer." in name:
            attention[name] = tensor.contiguous()
            continue
        if sizes[-1] and sizes[-1] + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            sizes.append(0)
        shards[-1][name] = tensor.contiguous()
        sizes[-1] += tensor.nbytes
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(directory / file, shard)
        places |= dict.fromkeys(shard, file)
    # There is an index even for one file: readers then load only the files it lists, not the attention's.
    _write_json(
        directory / "model.safetensors.index.json", {"metadata": {"total_size": sum(sizes)}, "weight_map": places}
    )
    if attention:
        _write_file(directory / ATTENTION_FILE, attention)
    return sum(sizes) + sum(tensor.nbytes for tensor in attention.values())


def _stored(model: PreTrainedModel, recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """All tensors, with the names and shapes that they have in the files."""
    tied = set(model.all_tied_weights_keys) if has_tied_head(model) else set()
    for path, module in model.named_modules():
        if isinstance(module, FakeQuantLinear):
            own = to_file(module.state, recipe)
        else:
            own = {name: tensor.data for name, tensor in module.named_parameters(recurse=False)}
            if isinstance(module, FakeQuantize):
                own = {"scale": module.scale, "zero_point": module.zero_point}
        for name, tensor in own.items():
            if f"{path}.{name}" not in tied:
                yield f"{path}.{name}", tensor


def _read_config(path: Path) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        del config.quantization_config
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path / 'config.json'}: {' '.join(str(error).split())[:300]}") from error
    return config


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
                setattr(parent, name, type(child)(config=config))
    separate_experts(model)
    return model


def _fill(model: PreTrainedModel, recipe: Recipe, tensors: dict[str, Tensor], path: Path) -> None:
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name, linear in linears:
        if f"{name}.weight_scale" in tensors:
            replace_linear(model, name, FakeQuantLinear(from_file(tensors, name, linear, recipe, path), recipe))
    known = {id(attention) for attention, _ in attentions(model)}
    for name, module in model.named_modules():
        if id(module) in known:
            for part, _ in quantized_parts(recipe):
                scale, zero = (
                    take_tensor(tensors, f"{name}.{part}_quantizer.{kind}", path) for kind in ("scale", "zero_point")
                )
                add_quantizer(module, part, Quantizer(scale, zero))
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


def _write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, path, {"format": "pt"})
    make_public(path)  # safetensors makes a file that only its owner may read
    sync(path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sync(path)
