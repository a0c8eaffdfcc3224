"""Statistics from calibration and their cache, by content: the same model, text and recipe are measured only once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from converters.atomic import AtomicFile
from converters.errors import InputError
from int8.recipe import Activations, Recipe, Stacks
from int8.samples import Samples, content, sample_sizes

VERSION = 1  # of the measurement and of the file format; files of another version are not read


@dataclass
class Statistics:
    """Statistics of all layers. All keys begin with the layer's number, in a speech model with "encoder." or "decoder."
    before it.

    - `channel_max` ("3.up->down.mlp.up_proj"): float32 [channels], the largest |x| of each column that the consumers of
      the fold read.
    - `ranges` ("3.mlp.down_proj", "3.self_attn.query"): float32 [2, groups], lowest and highest value per group with
      its own scale, in the folded model.
    - `expert_tokens` ("3.17"): the number of tokens routed to the expert.

    `tower_max` and `tower_ranges` are the same for the parts of the vision tower, whose keys begin with the part's path
    in the tower ("blocks.3.norm->qkv.norm1", "merger.linear_fc1").
    """

    channel_max: dict[str, Tensor] = field(default_factory=dict)
    ranges: dict[str, Tensor] = field(default_factory=dict)
    expert_tokens: dict[str, int] = field(default_factory=dict)
    tower_max: dict[str, Tensor] = field(default_factory=dict)
    tower_ranges: dict[str, Tensor] = field(default_factory=dict)


class StatisticsCache:
    """Statistics in a directory, of the model with this fingerprint and of these samples."""

    def __init__(self, directory: Path, model: str, samples: Samples) -> None:
        self._directory = directory
        self._text = _digest(model, str(sample_sizes(samples)), hashlib.sha256(content(samples)).hexdigest())

    def load(self, recipe: Recipe) -> Statistics:
        """The known statistics for a recipe: all, only the maxima (which recipes share), or none."""
        smoothing, ranges = (_read(path) for path in self._paths(recipe))
        tokens = json.loads((smoothing[1] or ranges[1]).get("expert_tokens", "{}"))
        known = Statistics(smoothing[0], ranges[0], tokens)
        if recipe.vision:
            known.tower_max, known.tower_ranges = (_read(path)[0] for path in self._tower_paths(recipe))
        return known

    def save(self, recipe: Recipe, statistics: Statistics) -> None:
        """Write the statistics for a recipe. Raises InputError if the directory cannot be written."""
        about = {"version": str(VERSION), "expert_tokens": json.dumps(statistics.expert_tokens)}
        for path, tensors in zip(self._paths(recipe), (statistics.channel_max, statistics.ranges), strict=True):
            if tensors and not path.exists():
                _write(path, tensors, about)
        found = statistics.tower_max, statistics.tower_ranges
        for path, tensors in zip(self._tower_paths(recipe), found, strict=True):
            if tensors and not path.exists():
                _write(path, tensors, {"version": str(VERSION)})

    def load_channels(self) -> Statistics | None:
        """The result of int8.channel_statistics for this text, or None if it is not cached."""
        (maxima, _), (ranges, _) = (_read(path) for path in self._channel_paths)
        return Statistics(maxima, ranges) if maxima and ranges else None

    def save_channels(self, statistics: Statistics) -> None:
        """Write the result of int8.channel_statistics. Raises InputError if the directory cannot be written."""
        for path, tensors in zip(self._channel_paths, (statistics.channel_max, statistics.ranges), strict=True):
            _write(path, tensors, {"version": str(VERSION)})

    @property
    def _channel_paths(self) -> tuple[Path, Path]:
        digest = _digest(self._text, "channels")[:32]
        return self._directory / f"maxima-{digest}.safetensors", self._directory / f"channels-{digest}.safetensors"

    def _paths(self, recipe: Recipe) -> tuple[Path, Path]:
        """Files of the maxima and of the ranges. Maxima depend only on the folds, ranges on most of the recipe."""
        folds = ",".join([*sorted(recipe.folds), *([] if recipe.stacks is Stacks.BOTH else [recipe.stacks])])
        seen = {key: value for key, value in recipe.to_json().items() if key in _SEEN_BY_RANGES}
        if recipe.activations is not Activations.STATIC:
            seen["activations"] = "not static"
        return (
            self._directory / f"smoothing-{_digest(self._text, folds)[:32]}.safetensors",
            self._directory / f"ranges-{_digest(self._text, json.dumps(seen, sort_keys=True))[:32]}.safetensors",
        )

    def _tower_paths(self, recipe: Recipe) -> tuple[Path, Path]:
        """The same files for the vision tower."""
        maxima, ranges = self._paths(recipe)
        return maxima.with_name(f"tower-{maxima.name}"), ranges.with_name(f"tower-{ranges.name}")


_SEEN_BY_RANGES = (
    "alpha", "activations", "query_key", "value", "insertion", "folds", "percentile", "keep", "fc2", "stacks",
)  # fmt: skip


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join([str(VERSION), *parts]).encode()).hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError):  # missing or damaged: the statistics are measured again
        return {}, {}


def _write(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    try:
        with AtomicFile(path, make_parents=True) as file:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file.temporary_path, about)
    except (OSError, SafetensorError) as error:  # safetensors raises its own error for a full disk
        raise InputError(f"{path}: cannot be written: {error}") from error


def stack_range(low: Tensor, high: Tensor) -> Tensor:
    """Stack two [groups] to [2, groups] on the CPU."""
    return torch.stack([low, high]).cpu()
