"""A calibrated model as a directory, which can be loaded without the original checkpoint.

    config.json, model-*.safetensors (+ index), tokenizer   compressed-tensors, which vLLM and transformers read
    preprocessor_config.json and others                     if the model takes images or speech
    int8.json                                               the recipe and a record of the calibration
    int8-attention.safetensors                              scales of Q, K and V, if the recipe quantizes them

The last two files are additions to the format: other readers run the same linear layers, with attention in float.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from converters.checkpoint import read_json
from converters.errors import InputError
from int8.arithmetic import Quantizer
from int8.atomic_directory import atomic_directory
from int8.checkpoint_files import (
    config_table,
    read_tensors,
    take_float_tensors,
    write_index,
    write_json,
    write_tensors,
)
from int8.compressed_tensors import from_file, quantization_config, take_tensor, to_file
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
from int8.skeleton import skeleton
from int8.tokenizer import copy_processor, copy_tokenizer

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
            write_json(temporary_path / "config.json", _config(model, recipe))
            about: dict[str, Any] = {"recipe": recipe.to_json(), "calibration": asdict(calibration)}
            if origin is not None:
                about["origin"] = origin
            write_json(temporary_path / RECIPE_FILE, about)
            copy_tokenizer(source, temporary_path)
            copy_processor(source, temporary_path)
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


def load(path: Path, *, images: bool = False) -> tuple[PreTrainedModel, Recipe]:
    """A saved model as fake-quant on the CPU, in evaluation mode, with transformers' interface; and its recipe.

    With `images`, it has its vision tower. Raises InputError for a directory that `save` did not write, for tensors
    that are missing or contradict the config, and if there should be a vision tower but is none.
    """
    if not is_int8(path):
        raise InputError(f"{path}: has no {RECIPE_FILE}; give a directory that `sweep int8` wrote")
    recipe = read_recipe(path)
    tensors = read_tensors(path, ATTENTION_FILE, tower=images)
    model = skeleton(path, _read_config(path), tower=images)
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
    return {**config_table(model), "quantization_config": quantization_config(recipe, float_layers)}


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
        write_tensors(directory / file, shard)
        places |= dict.fromkeys(shard, file)
    # There is an index even for one file: readers then load only the files it lists, not the attention's.
    write_index(directory, places, sum(sizes))
    if attention:
        write_tensors(directory / ATTENTION_FILE, attention)
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


def _fill(model: PreTrainedModel, recipe: Recipe, tensors: dict[str, Tensor], path: Path) -> None:
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name, linear in linears:
        if f"{name}.weight_scale" in tensors:
            replace_linear(model, name, FakeQuantLinear(from_file(tensors, name, linear, recipe, path), recipe, name))
    known = {id(attention) for attention, _ in attentions(model, recipe.stacks)}
    for name, module in model.named_modules():
        if id(module) in known:
            for part, _ in quantized_parts(recipe):
                scale, zero = (
                    take_tensor(tensors, f"{name}.{part}_quantizer.{kind}", path) for kind in ("scale", "zero_point")
                )
                add_quantizer(module, part, Quantizer(scale, zero))
    take_float_tensors(model, tensors, path)
