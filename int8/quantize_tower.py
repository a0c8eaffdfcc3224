"""The vision tower and the mergers in int8: calibrated on the images of the samples, folded, and fake-quantized.

As in the decoder, all statistics are those of the float model, and only one part of the tower at a time, a block or a
merger, is in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import InputError
from int8.architectures import TOWER_BLOCK, TOWER_MERGER, FoldRule
from int8.arithmetic import Quantizer, scale_and_zero_point
from int8.fakequant import FakeQuantLinear, linears_to_quantize, quantized_linear, replace_linear
from int8.fold import apply_fold, fold_scales, matching_rules
from int8.observers import ChannelMaxObserver, RangeObserver, require_finite
from int8.on_device import in_float32
from int8.recipe import NEEDS_IMAGES, VISION, Activations, Recipe
from int8.samples import ImagePrompts, Samples
from int8.statistics import Statistics, stack_range
from int8.tower import TOWER
from int8.tower_inputs import BLOCKS, TowerInputs, parts_of

Observer = Callable[[Tensor], None]


@dataclass(frozen=True)
class TowerPart:
    """A block or a merger of a tower: its path in the model, the folds inside it, and its linear layers that get int8
    weights."""

    path: str
    module: nn.Module
    rules: tuple[FoldRule, ...]
    linears: tuple[str, ...]


def require_tower(base: Any, samples: Samples, recipe: Recipe) -> None:
    """Raise InputError if `base`, a model without its head, has no tower, or if the samples have no images but the
    recipe needs some for it."""
    if not hasattr(base, TOWER):
        raise InputError(f"recipe {recipe.name}: this model has no vision tower; leave {VISION} out")
    if recipe.calibrates_tower and not (isinstance(samples, ImagePrompts) and samples.images):
        raise InputError(f"recipe {recipe.name}: {NEEDS_IMAGES}")


def tower_parts(base: Any, recipe: Recipe) -> dict[str, TowerPart]:
    """The parts of the tower of `base`, by their paths in it."""
    prefix, parts = f"{base.base_model_prefix}.{TOWER}", {}
    for name, module in parts_of(base.get_submodule(TOWER)):
        rules = TOWER_BLOCK if name.startswith(BLOCKS) else TOWER_MERGER
        path = f"{prefix}.{name}"
        linears = linears_to_quantize(module, path, recipe)
        parts[name] = TowerPart(path, module, tuple(matching_rules(module, rules, recipe.folds)), tuple(linears))
    return parts


@torch.no_grad()
def quantize_tower(
    base: Any, samples: Samples, recipe: Recipe, device: torch.device, statistics: Statistics | None = None
) -> None:
    """Fold and fake-quantize the tower of `base` in place, calibrated on the images of the samples.

    What `statistics` has of the tower is not measured again; what is measured is added to it. Raises InputError as
    `require_tower` does, for activations or weights that are NaN or infinite, and for a device without enough memory.
    """
    require_tower(base, samples, recipe)
    seen = Statistics() if statistics is None else statistics
    parts = tower_parts(base, recipe)
    smooths = bool(recipe.folds) and not seen.tower_max
    measures = recipe.activations is Activations.STATIC and not seen.tower_ranges
    inputs = None
    if smooths or measures:
        assert isinstance(samples, ImagePrompts)
        inputs = TowerInputs(base, samples.preprocessing, samples.images, device)
    for name in parts if inputs is None else inputs.order:
        part = parts[name]
        with in_float32(part.module, device, part.path):
            if inputs is not None and smooths:
                _measure_maxima(inputs, name, part, seen, keep=not measures)
            for rule in part.rules:
                maxima = seen.tower_max[f"{name}.{rule.fold}.{rule.producer}"].to(device)
                apply_fold(part.module, rule, fold_scales(part.module, rule, maxima, set(part.linears), recipe.alpha))
            if inputs is not None and measures:
                _measure_ranges(inputs, name, part, seen, recipe.percentile)
            _quantize(name, part, recipe, seen, device)


def _measure_maxima(inputs: TowerInputs, name: str, part: TowerPart, seen: Statistics, keep: bool) -> None:
    found = {rule: ChannelMaxObserver() for rule in part.rules}
    watched = {part.module.get_submodule(rule.consumers[0]): one.observe for rule, one in found.items()}
    _run(inputs, name, part, watched, keep)
    for rule, one in found.items():
        assert one.value is not None
        require_finite(one.value, f"{part.path}.{rule.producer}")
        seen.tower_max[f"{name}.{rule.fold}.{rule.producer}"] = one.value.cpu()


def _measure_ranges(inputs: TowerInputs, name: str, part: TowerPart, seen: Statistics, percentile: float) -> None:
    found = {}
    for path in part.linears:
        width = part.module.get_submodule(path).get_parameter("weight").shape[1]
        found[path] = RangeObserver("tensor", percentile, inputs.patches * width)
    watched = {part.module.get_submodule(path): one.observe for path, one in found.items()}
    _run(inputs, name, part, watched, keep=True)
    for path, one in found.items():
        ends = one.ends()
        assert ends is not None
        require_finite(torch.stack(ends), f"{part.path}.{path}")
        seen.tower_ranges[f"{name}.{path}"] = stack_range(*ends)


def _run(inputs: TowerInputs, name: str, part: TowerPart, watched: Mapping[nn.Module, Observer], keep: bool) -> None:
    """Run a part for all images; each observer sees the inputs of its module."""
    with ExitStack() as stack:
        for module, observe in watched.items():
            hook = module.register_forward_pre_hook(lambda _, inputs, observe=observe: observe(inputs[0]))
            stack.callback(hook.remove)
        inputs.run(part.module, name, keep)


def _quantize(name: str, part: TowerPart, recipe: Recipe, seen: Statistics, device: torch.device) -> None:
    for path in part.linears:
        linear = part.module.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        require_finite(linear.weight, f"{part.path}.{path}")
        range_ = None
        if recipe.activations is Activations.STATIC:
            low, high = seen.tower_ranges[f"{name}.{path}"].to(device)
            scale, zero_point = scale_and_zero_point(low, high, recipe.symmetric)
            range_ = Quantizer(scale.reshape(()), zero_point.reshape(()))
        replace_linear(part.module, path, FakeQuantLinear(quantized_linear(linear, range_), recipe))
