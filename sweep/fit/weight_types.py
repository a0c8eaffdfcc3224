"""Which share of a model's weights has which tensor type, and how many weights there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from converters.llamacpp.container import TensorInfo
from sweep.fit.layer_bytes import LayerPart, ModelShape


@dataclass(frozen=True)
class WeightTypes:
    """The matrices of a model without the input embeddings, which cost little quality, and without layers that are not
    run.

    `shares` maps the name of a type to its share of the weights; their sum is 1. `parameters` is the number of weights,
    `active` the number of those that a token uses: of the experts only those that are used.
    """

    shares: Mapping[str, float]
    parameters: int
    active: int

    @classmethod
    def of(cls, shape: ModelShape, tensors: Sequence[TensorInfo]) -> WeightTypes:
        """From the tensors of a variant; their names must be `shape.tensors`. Tied embeddings count as the output."""
        by_name = {tensor.name: tensor for tensor in tensors}
        experts = shape.parts[LayerPart.EXPERTS]
        counts: dict[str, int] = {}
        active = 0
        for name, layer, is_expert in zip(shape.tensors, shape.layer_of, experts, strict=True):
            tensor = by_name[name]
            is_output = layer == -1 and shape.tied
            if sum(size > 1 for size in tensor.shape) < 2 or (layer < 0 and not is_output):
                continue
            counts[tensor.type.name] = counts.get(tensor.type.name, 0) + tensor.elements
            used = shape.experts_used / shape.experts if is_expert and shape.experts else 1.0
            active += round(tensor.elements * used)
        total = sum(counts.values())
        return cls({name: count / total for name, count in counts.items()}, total, active)

    @property
    def effective(self) -> float:
        """The size by which models with experts and dense models are comparable: sqrt(parameters * active)."""
        return sqrt(self.parameters * self.active)
