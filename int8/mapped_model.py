"""A float checkpoint as a model whose weights stay in the files, which are mapped into memory until they are read.

transformers does the same, but copies the experts of a model with one tensor per expert into stacked tensors, so all of
a large model would have to fit in memory.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from converters.architectures.family import IGNORED, canonical_name, tower_name
from converters.checkpoint import Checkpoint, read_config
from converters.errors import InputError
from int8.skeleton import skeleton, vision_config

HEAD = "lm_head.weight"

_LAYERS, _TOWER = "model.layers.", "visual."
_GATE_UP = ("gate_proj", "up_proj")


def map_model(path: Path, dtype: str = "auto") -> PreTrainedModel:
    """The model of a checkpoint directory on the CPU, with separate experts.

    `dtype` "auto" is that of the config, or of the first tensor if the config has none; a weight of another dtype is
    converted, which copies it. Raises InputError for a config or tensors that make no model, and for a tensor that is
    missing or that a layer of the model would leave out.
    """
    config, tensors = text_config(path), _mapped(path)
    chosen = _dtype(config, tensors) if dtype == "auto" else getattr(torch, dtype)
    config.dtype = config.get_text_config().dtype = chosen
    model = skeleton(path, config, tower=any(map(is_tower, tensors)))
    tied = config.get_text_config().tie_word_embeddings and _has_no_own_head(tensors)
    parts = (_LAYERS,) if vision_config(config) is None else (_LAYERS, _TOWER)
    unread = {name for name in tensors if name.startswith(parts) and not name.endswith(IGNORED)}
    for path_in_model, parameter in list(model.named_parameters(remove_duplicate=False)):
        name = stored_name(path_in_model)
        if tied and name == HEAD:
            continue
        held = name if name in tensors else _stacked_name(name)
        tensor = _tensor(name, tensors, held, parameter.shape)
        if tensor is None:
            why = "; tie_word_embeddings in config.json is not true" if name == HEAD else ""
            raise InputError(f"{path}: tensor {name!r} is missing{why}")
        unread.discard(held)
        if tensor.shape != parameter.shape:
            shapes = f"{list(tensor.shape)}; the config says {list(parameter.shape)}"
            raise InputError(f"{path}: tensor {name!r} has the shape {shapes}")
        module, _, kind = path_in_model.rpartition(".")
        setattr(model.get_submodule(module), kind, nn.Parameter(tensor.to(chosen), requires_grad=False))
    if unread:
        raise InputError(f"{path}: tensor {min(unread)!r} is not part of the model that config.json describes")
    if tied:
        model.tie_weights()
    return model.eval()


def text_config(path: Path) -> PretrainedConfig:
    """The config of a checkpoint directory. A multi-modal config may say at one place alone, at its root or in its text
    config, that the head is tied to the embeddings; then both say it. Raises InputError."""
    tied = read_config(path).get("tie_word_embeddings")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # transformers' errors for a bad config
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: transformers cannot read config.json: {reason}") from error
    text = config.get_text_config()
    text.tie_word_embeddings = text.tie_word_embeddings if tied is None else tied is True
    config.tie_word_embeddings = text.tie_word_embeddings  # a multi-modal class of transformers reads the root's alone
    return config


def stored_name(name: str) -> str:
    """The name of a tensor in a checkpoint or a model without the prefixes that classes and versions of transformers
    give it: "model.layers.0...", "lm_head.weight", "visual.blocks.0..."."""
    return canonical_name(name) or tower_name(name) or name


def is_tower(name: str) -> bool:
    """Whether a tensor, in a checkpoint or a model, belongs to the vision tower."""
    return tower_name(name) is not None


def _mapped(path: Path) -> dict[str, Tensor]:
    """The float tensors of a checkpoint, as views of the mapped files; see `stored_name`."""
    with Checkpoint.open(path) as checkpoint:  # checks the headers
        names = {name: tensor.path for name, tensor in checkpoint.tensors.items()}
    found = {}
    try:
        for file in sorted(set(names.values())):
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # safetensors' object is no mapping
                    if file == names[name]:
                        found[stored_name(name)] = tensors.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return found


def _dtype(config: PretrainedConfig, tensors: dict[str, Tensor]) -> torch.dtype:
    known = config.get_text_config().dtype or config.dtype
    if isinstance(known, torch.dtype):
        return known
    return next((one.dtype for one in tensors.values() if one.is_floating_point()), torch.float32)


def _has_no_own_head(tensors: dict[str, Tensor]) -> bool:
    """Whether a tied head is the embeddings: a file may have a head that differs, or a copy of the embeddings."""
    return HEAD not in tensors or torch.equal(tensors[HEAD], tensors["model.embed_tokens.weight"])


def _stacked_name(name: str) -> str:
    """The tensor of all experts that has the weight `name` of one of them."""
    experts, _, rest = name.partition(".experts.")
    projection = rest.partition(".")[2].removesuffix(".weight")
    return f"{experts}.experts.{'gate_up_proj' if projection in _GATE_UP else projection}"


def _tensor(name: str, tensors: dict[str, Tensor], held: str, shape: torch.Size) -> Tensor | None:
    """The tensor of a parameter of this shape: its own, or a part of that of all experts, by the name `held`."""
    found = tensors.get(held)
    if found is None or held == name:
        return found
    if _is_transposed(tensors, held.rpartition(".")[0], shape if held.endswith("gate_up_proj") else shape[::-1]):
        found = found.transpose(-2, -1)
    number, _, part = name.partition(".experts.")[2].partition(".")
    if not number.isdecimal() or int(number) >= len(found):
        return None
    projection = part.removesuffix(".weight")
    one = found[int(number)]
    return one.chunk(2)[_GATE_UP.index(projection)] if projection in _GATE_UP else one


def _is_transposed(tensors: dict[str, Tensor], experts: str, shape: torch.Size) -> bool:
    """Whether the tensors of all experts are transposed, as in published Qwen3-VL-MoE. `shape` is that of an expert's
    up_proj, [inner, width]. A square tensor is the same both ways; then the other one tells."""
    inner, width = shape
    expected = {"gate_up_proj": (2 * inner, width), "down_proj": (width, inner)}
    found = {kind: tuple(tensors[f"{experts}.{kind}"].shape[1:]) for kind in expected if f"{experts}.{kind}" in tensors}
    return any(found[kind] != expected[kind] == found[kind][::-1] for kind in found)
