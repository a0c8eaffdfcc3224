"""The vision tower and the merger in int8: calibrated on the images of the samples, folded, and fake-quantized.

As in the decoder, all statistics are those of the float model. The whole tower is on the device in float32 meanwhile:
published towers have up to 0.7 billion weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from int8.tower import TOWER, encode_image

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
    if recipe.calibrates_tower and not _Images(base, samples, torch.device("cpu")).found:
        raise InputError(f"recipe {recipe.name}: {NEEDS_IMAGES}")


def tower_parts(base: Any, recipe: Recipe) -> list[TowerPart]:
    """The parts of the tower of `base`."""
    tower = base.get_submodule(TOWER)
    prefix = f"{base.base_model_prefix}.{TOWER}"
    named: list[tuple[str, nn.Module, tuple[FoldRule, ...]]] = [
        (f"blocks.{i}", block, TOWER_BLOCK) for i, block in enumerate(tower.blocks)
    ]
    named.append(("merger", tower.merger, TOWER_MERGER))
    stacked = getattr(tower, "deepstack_merger_list", ())
    named += [(f"deepstack_merger_list.{i}", merger, TOWER_MERGER) for i, merger in enumerate(stacked)]
    parts = []
    for name, module, rules in named:
        path = f"{prefix}.{name}"
        linears = linears_to_quantize(module, path, recipe)
        parts.append(TowerPart(path, module, tuple(matching_rules(module, rules, recipe.folds)), tuple(linears)))
    return parts


@torch.no_grad()
def quantize_tower(base: Any, samples: Samples, recipe: Recipe, device: torch.device) -> None:
    """Fold and fake-quantize the tower of `base` in place, calibrated on the images of the samples.

    Raises InputError as `require_tower` does, for activations or weights that are NaN or infinite, and for a device
    without enough memory.
    """
    require_tower(base, samples, recipe)
    parts, images = tower_parts(base, recipe), _Images(base, samples, device)
    is_static = recipe.activations is Activations.STATIC
    with in_float32(base.get_submodule(TOWER), device, f"{base.base_model_prefix}.{TOWER}"):
        if recipe.folds:
            _fold(parts, images, recipe)
        ranges = _ranges(parts, images, recipe) if is_static else {}
        for part, name in _linears(parts):
            linear = part.module.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            require_finite(linear.weight, f"{part.path}.{name}")
            seen = ranges.get(f"{part.path}.{name}")
            replace_linear(part.module, name, FakeQuantLinear(quantized_linear(linear, seen), recipe))


class _Images:
    """The distinct images of samples, which are passed through a tower that is on its device."""

    def __init__(self, base: Any, samples: Samples, device: torch.device) -> None:
        self._base, self._samples, self._device = base, samples, device
        prompts = samples.prompts if isinstance(samples, ImagePrompts) else ()
        self.found = {image.digest: image for prompt in prompts for image in prompt.images}

    @property
    def patches(self) -> int:
        """The number of patches of all images."""
        assert isinstance(self._samples, ImagePrompts)
        settings = self._samples.preprocessing
        return sum(settings.grid(image).tokens * settings.merge**2 for image in self.found.values())

    def run(self, watched: list[tuple[nn.Module, Observer]]) -> None:
        """Encode all images; each observer sees the inputs of its module."""
        assert isinstance(self._samples, ImagePrompts)
        with ExitStack() as stack:
            for module, observe in watched:
                hook = module.register_forward_pre_hook(lambda _, inputs, observe=observe: observe(inputs[0]))
                stack.callback(hook.remove)
            for image in self.found.values():
                encode_image(self._base, self._samples.preprocessing, image, self._device)


def _fold(parts: list[TowerPart], images: _Images, recipe: Recipe) -> None:
    seen = [(part, rule, ChannelMaxObserver()) for part in parts for rule in part.rules]
    images.run([(part.module.get_submodule(rule.consumers[0]), maxima.observe) for part, rule, maxima in seen])
    for part, rule, maxima in seen:
        assert maxima.value is not None
        require_finite(maxima.value, f"{part.path}.{rule.producer}")
        scales = fold_scales(part.module, rule, maxima.value, set(part.linears), recipe.alpha)
        apply_fold(part.module, rule, scales)


def _ranges(parts: list[TowerPart], images: _Images, recipe: Recipe) -> dict[str, Quantizer]:
    """The static scale and zero point of the input of each linear layer, by its path."""
    seen = {}
    for part, name in _linears(parts):
        linear = part.module.get_submodule(name)
        width = linear.get_parameter("weight").shape[1]
        seen[f"{part.path}.{name}"] = linear, RangeObserver("tensor", recipe.percentile, images.patches * width)
    images.run([(linear, one.observe) for linear, one in seen.values()])
    found = {}
    for path, (_, one) in seen.items():
        ends = one.ends()
        assert ends is not None
        require_finite(torch.stack(ends), path)
        scale, zero_point = scale_and_zero_point(*ends, recipe.symmetric)
        found[path] = Quantizer(scale.reshape(()), zero_point.reshape(()))
    return found


def _linears(parts: list[TowerPart]) -> Iterator[tuple[TowerPart, str]]:
    for part in parts:
        for name in part.linears:
            yield part, name
