"""Which bytes of a model's file belong to which layer, so that any placement of layers is a matter of adding up.

Layers are counted as llama.cpp counts them: the blocks, those of multi-token prediction included, and the output as
the one after the last. Embeddings are no layer; they always stay in RAM.
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

UNKNOWN_CONTEXT = 1 << 17  # what is looked at for a model that does not say for which contexts it was made
_BLOCK = re.compile(r"^blk\.(\d+)\.(.*)")


class Kept(Enum):
    """What of a layer's tensors stays away from its device, as a pattern behind "blk.N."."""

    EXPERTS = r"ffn_(up|down|gate_up|gate)_(ch|)exps"
    DOWN = r"ffn_down.*"
    GATE_AND_DOWN = r"ffn_(gate|gate_up|down).*"
    FEED_FORWARD = r"ffn_(gate|up|gate_up|down).*"


@dataclass(frozen=True)
class ModelShape:
    """What of a model does not depend on the quant. `layers` counts all blocks, the last `mtp` of them are not run."""

    architecture: str
    layers: int
    mtp: int
    experts: int
    experts_used: int
    train_context: int
    tied: bool
    tensors: tuple[str, ...]

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
        """Layers with a recurrent state in place of a KV cache."""
        return sum(".ssm_out." in name for name in self.tensors)

    @property
    def attention_layers(self) -> int:
        """Layers with a KV cache."""
        return self.layers - self.mtp - self.linear_layers

    @cached_property
    def layer_of(self) -> npt.NDArray[np.intp]:
        """The layer of each tensor: -1 for embeddings, -2 for what llama.cpp leaves in the file."""
        run = self.layers - self.mtp
        result = np.full(len(self.tensors), self.layers, np.intp)
        for index, name in enumerate(self.tensors):
            block = _BLOCK.match(name)
            if block is not None:
                result[index] = int(block[1]) if int(block[1]) < run else -2
            elif name.startswith("token_embd"):
                result[index] = -1
        return result

    @cached_property
    def kept(self) -> Mapping[Kept, npt.NDArray[np.bool_]]:
        """Which tensors each pattern means."""
        behind = [match[2] if (match := _BLOCK.match(name)) is not None else "" for name in self.tensors]
        return {kind: np.array([bool(re.match(kind.value, name)) for name in behind]) for kind in Kept}


@dataclass(frozen=True)
class Weights:
    """Bytes of one variant's tensors: `layers` by layer, the output last; `kept` what of each a pattern means.

    `embedding` is in RAM; `largest` is the largest matrix of each layer, `largest_kept` of the part that is kept.
    `file` counts all that the file has.
    """

    file: int
    embedding: int
    layers: Bytes
    kept: Mapping[Kept, Bytes]
    largest: Bytes
    active: Bytes  # read for one token: of experts only those used

    @classmethod
    def of(cls, shape: ModelShape, tensors: Sequence[TensorInfo]) -> Weights:
        """Of the tensors in the order of `shape.tensors`."""
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
            experts = shape.kept[Kept.EXPERTS]
            used[experts] = nbytes[experts] * shape.experts_used // shape.experts
        active = by_layer(used, run)
        if shape.tied:  # llama.cpp loads the embeddings once more as the output
            layers[-1] += embedding
            active[-1] += embedding
        largest = np.zeros(count, np.int64)
        np.maximum.at(largest, layer[run], nbytes[run])
        kept = {kind: by_layer(nbytes, run & shape.kept[kind]) for kind in Kept}
        return cls(int(nbytes.sum()), embedding, layers, kept, largest, active)
