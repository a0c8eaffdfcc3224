"""The vision tower of a multi-modal model as a source of weights: GGUF stores it in a file of its own, the projector
file (mmproj), which llama.cpp loads beside the text model.

The rules for the float types are those of llama.cpp's converter (`--mmproj`); its quantizer decides all other types.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.architectures.family import Tower, Weight, config_path_in_errors, integer, tower_name
from converters.architectures.tower import NAME
from converters.checkpoint import read_json
from converters.checkpoint_source import CheckpointSource
from converters.checkpoint_weights import CheckpointWeights
from converters.errors import InputError
from converters.huggingface_source import HuggingFaceSource
from converters.llamacpp.bindings import TYPES, TensorType
from converters.llamacpp.container import (
    Field,
    TensorInfo,
    ValueType,
    lay_out,
    numbers,
    string,
    tensor_order,
)
from converters.source import Source

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files that state how pictures are normalized; the second, if there is one, overrides the first."""
PATCH = "v.patch_embd.weight"
_ALWAYS_F32 = (PATCH, "v.position_embd.weight")


class ProjectorSource:
    """The vision tower of the model that `source` is; the constructor checks all names, shapes and dtypes.

    Without weights, for a config alone, `tensors` are as in the checkpoint. Without `needs_normalization`, the values
    of published checkpoints replace those of a file that is missing, which is enough for sizes. Raises InputError if
    the model has no vision tower, or none that llama.cpp can run.
    """

    def __init__(self, source: Source, needs_normalization: bool = True) -> None:
        if not isinstance(source, HuggingFaceSource):
            raise InputError(
                f"{source.path}: is a GGUF file, which has no vision tower; give the checkpoint that it was made from"
            )
        self.path, self.name, self._source = source.path, source.name, source
        self.tower, vision = _tower(source)
        width = integer(source.config, "hidden_size")
        self._weights: CheckpointWeights | None = None
        with config_path_in_errors(source.config_file):
            fields = self.tower.fields(vision, width)
            weights = self.tower.weights(vision, width)
        if isinstance(source, CheckpointSource):
            self._weights = CheckpointWeights(source.checkpoint, tower_name, source.fp8_block)
            self._weights.choose(weights)
            self._weights.reject_unexpected("vision tower", lambda _: False)
        mean, std = _normalization(source, self.tower, needs_normalization)
        self.structure: Mapping[str, Field] = {
            "general.architecture": string("clip"),
            "general.type": string("mmproj"),
            "general.name": string(self.name),
            **fields,
            "clip.vision.image_mean": numbers(ValueType.FLOAT32, mean),
            "clip.vision.image_std": numbers(ValueType.FLOAT32, std),
        }
        self.tensors = lay_out(
            (weight.name, weight.shape, self._type(source, weight))
            for weight in sorted(weights, key=lambda weight: tensor_order(weight.name))
        )

    def _type(self, source: HuggingFaceSource, weight: Weight) -> TensorType:
        stored = source.float_type if self._weights is None else self._weights.type_of(weight.name)
        if weight.name.startswith(PATCH):
            return TYPES["F16" if stored.name == "F16" else "F32"]
        return TYPES["F32"] if weight.always_f32 or weight.name in _ALWAYS_F32 else stored

    def tensors_before(self, quant: str) -> tuple[TensorInfo, ...]:
        """The tensors that llama.cpp's quantizer makes a file of `quant` from.

        Its converter writes patch embeddings as F16 to F16 files and as F32 to all others; its quantizer keeps them.
        """
        patch = {"F16": "F16", "F32": "F32", "BF16": "F32"}.get(quant)
        if patch is None:
            return self.tensors
        return lay_out(
            (one.name, one.shape, TYPES[patch] if one.name.startswith(PATCH) else one.type) for one in self.tensors
        )

    @property
    def metadata(self) -> Mapping[str, Field]:
        """See `Source.metadata`."""
        return self.structure

    @property
    def fingerprint(self) -> str:
        """A hash of the model's (see `Source.fingerprint`) and of the normalization, which other files state."""
        keys = ("clip.vision.image_mean", "clip.vision.image_std")
        return hashlib.sha256(
            self._source.fingerprint.encode() + b"".join(self.structure[key].payload for key in keys)
        ).hexdigest()

    def stored_name(self, name: str, row: int = 0) -> str:
        """See `Source.stored_name`."""
        return self._reader(name).stored_name(name, row)

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """See `Source.read_rows`."""
        return self._reader(name).read_rows(name, start, stop)

    def _reader(self, name: str) -> CheckpointWeights:
        if self._weights is None:
            raise InputError(
                f"{self.path}: is a config without weights; to export {name}, give the complete checkpoint"
            )
        return self._weights


def _tower(source: HuggingFaceSource) -> tuple[Tower, Mapping[str, Any]]:
    """The kind of the model's vision tower, and its config."""
    vision = source.config.get(NAME)
    if source.family.tower is None or vision is None:
        raise InputError(
            f"{source.config_file}: has no {NAME}, so it is a text model without a projector; leave out --mmproj and"
            " --projector"
        )
    if not isinstance(vision, dict):
        raise InputError(f"{source.config_file}: {NAME} is {str(vision)[:40]!r}, which is not a JSON object")
    return source.family.tower, vision


def _normalization(source: HuggingFaceSource, tower: Tower, is_needed: bool) -> tuple[list[float], list[float]]:
    """The mean and the standard deviation of each color. For a config alone they are those of published checkpoints."""
    directory = source.path if isinstance(source, CheckpointSource) else source.config_file.parent
    stated: dict[str, Any] = {}
    found: Path | None = None
    for name in PROCESSORS:
        if (directory / name).is_file():
            found = directory / name
            content = read_json(found)
            own = content.get("image_processor")
            stated |= content | (own if isinstance(own, dict) else {})
    if found is None and not (is_needed and isinstance(source, CheckpointSource)):
        return list(tower.mean), list(tower.std)
    if found is None:
        raise InputError(
            f"{directory}: has no {PROCESSORS[0]}, which states how pictures are normalized; download it too"
        )
    values = tuple(stated.get(key) for key in ("image_mean", "image_std"))
    for key, value in zip(("image_mean", "image_std"), values, strict=True):
        low = 0.0 if key == "image_std" else -1e3
        valid = (
            isinstance(value, list)
            and len(value) == 3
            and all(type(n) in (int, float) and low <= n < 1e3 for n in value)
        )
        if not valid or (key == "image_std" and 0 in (value or ())):
            raise InputError(f"{found}: {key} is {json.dumps(value)[:60]}; expected three numbers, one for each color")
    return values[0] or [], values[1] or []
