"""The bytes of each layer of a model, from which the memory of any placement of layers is a sum.

Layers are numbered as in llama.cpp: the blocks, including those of multi-token prediction, and then the output as one
more layer. Embeddings are not a layer; they always stay in RAM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from converters.llamacpp.container import Field, TensorInfo, text

Bytes = npt.NDArray[np.int64]

UNKNOWN_CONTEXT = 1 << 17  # largest context in tokens for a model whose metadata has no trained context
_BLOCK = re.compile(r"^blk\.(\d+)\.(.*)")


class LayerPart(Enum):
    """Parts of a layer that can be on another device than the layer: patterns of tensor names after "blk.N."."""

    EXPERTS = r"ffn_(up|down|gate_up|gate)_(ch|)exps"
    DOWN = r"ffn_down.*"
    GATE_AND_DOWN = r"ffn_(gate|gate_up|down).*"
    FEED_FORWARD = r"ffn_(gate|up|gate_up|down).*"


@dataclass(frozen=True)
class ModelShape:
    """The properties of a model that do not depend on the quant.

    `layers` is the number of blocks; the last `mtp` of them, for multi-token prediction, are loaded only if
    `loads_mtp`, for speculative decoding. `experts` and `experts_used` are per layer. `train_context` is in tokens.
    `tied`: the output uses the embedding matrix. `tensors` are the names of all tensors.
    """

    architecture: str
    layers: int
    mtp: int
    experts: int
    experts_used: int
    train_context: int
    tied: bool
    tensors: tuple[str, ...]
    loads_mtp: bool = False

    @classmethod
    def of(cls, structure: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> ModelShape:
        """From a model's metadata and tensors; a missing count is 0."""
        architecture = text(structure, "general.architecture")

        def count(key: str) -> int:
            field = structure.get(f"{architecture}.{key}")
            return int(field.value) if field is not None else 0

        names = tuple(tensor.name for tensor in tensors)
        return cls(
            architecture=architecture,
            layers=count("block_count"),
            mtp=count("nextn_predict_layers"),
            experts=count("expert_count"),
            experts_used=count("expert_used_count"),
            train_context=count("context_length") or UNKNOWN_CONTEXT,
            tied="output.weight" not in names,
            tensors=names,
        )

    @property
    def linear_layers(self) -> int:
        """Number of layers with a recurrent state in place of a KV cache."""
        return sum(".ssm_out." in name for name in self.tensors)

    @property
    def attention_layers(self) -> int:
        """Number of layers with a KV cache."""
        return self.layers - self.mtp - self.linear_layers

    @cached_property
    def layer_of(self) -> npt.NDArray[np.intp]:
        """The layer of each tensor: -1 for embeddings, -2 for tensors that llama.cpp does not load."""
        run = self.layers - (0 if self.loads_mtp else self.mtp)
        result = np.full(len(self.tensors), self.layers, np.intp)
        for index, name in enumerate(self.tensors):
            block = _BLOCK.match(name)
            if block is not None:
                result[index] = int(block[1]) if int(block[1]) < run else -2
            elif name.startswith("token_embd"):
                result[index] = -1
        return result

    @cached_property
    def parts(self) -> Mapping[LayerPart, npt.NDArray[np.bool_]]:
        """Whether each tensor belongs to each part of its layer."""
        names = [match[2] if (match := _BLOCK.match(name)) is not None else "" for name in self.tensors]
        return {part: np.array([bool(re.match(part.value, name)) for name in names]) for part in LayerPart}


@dataclass(frozen=True)
class Weights:
    """Bytes of the tensors of one variant. Arrays have one entry per layer, with the output as the last one.

    Attributes:
        file: all tensors in the file.
        embedding: the embedding matrix, which is in RAM.
        layers: all tensors of each layer.
        parts: the tensors of each part of each layer.
        largest: the largest matrix of each layer.
        mtp: the tensors of layers for multi-token prediction.
        active: tensors that are read to generate one token: of the experts only those that are used.
    """

    file: int
    embedding: int
    layers: Bytes
    parts: Mapping[LayerPart, Bytes]
    largest: Bytes
    active: Bytes
    mtp: int

    @classmethod
    def of(cls, shape: ModelShape, tensors: Sequence[TensorInfo]) -> Weights:
        """From the tensors of a variant; their names must be `shape.tensors`."""
        sizes = {tensor.name: tensor.nbytes for tensor in tensors}
        nbytes = np.array([sizes[name] for name in shape.tensors], np.int64)
        layer, count = shape.layer_of, shape.layers + 1
        embedding = int(nbytes[layer == -1].sum())
        run = layer >= 0

        def by_layer(values: Bytes, chosen: npt.NDArray[np.bool_]) -> Bytes:
            return np.bincount(layer[chosen], values[chosen], count).astype(np.int64)

        layers = by_layer(nbytes, run)
        used = nbytes.copy()
        if shape.experts:
            experts = shape.parts[LayerPart.EXPERTS]
            used[experts] = nbytes[experts] * shape.experts_used // shape.experts
        active = by_layer(used, run)
        if shape.tied:  # llama.cpp loads the embeddings a second time as the output
            layers[-1] += embedding
            active[-1] += embedding
        largest = np.zeros(count, np.int64)
        np.maximum.at(largest, layer[run], nbytes[run])
        parts = {part: by_layer(nbytes, run & shape.parts[part]) for part in LayerPart}
        blocks = [_BLOCK.match(name) for name in shape.tensors]
        of_mtp = np.array([block is not None and int(block[1]) >= shape.layers - shape.mtp for block in blocks])
        return cls(int(nbytes.sum()), embedding, layers, parts, largest, active, int(nbytes[of_mtp].sum()))
