"""The inputs of the parts of a vision tower for all images, which are carried through the tower part by part.

The parts are the tower's blocks and its mergers. As for the layers of a decoder, memory is needed for only one part in
float32, and for the patches of the images between two blocks. What is before, between and after the parts (patches,
positions, windows and their order) is computed by the tower itself, with its parts left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import InputError
from images.file import ImageFile
from images.preprocessing import Grid, Preprocessing
from int8.on_device import read_in_float32
from int8.replaced_forwards import replaced_forwards
from int8.tower import TOWER, encode_image, last_linear

BLOCKS = "blocks"
MERGERS = ("merger", "deepstack_merger_list")


class TowerInputs:
    """The inputs of the next part of the tower of `base` (a model without its head) for all `images`.

    Patches between blocks are float32 on the CPU, [patches, width] for each image. Parts are computed on `device`.
    `dtype`: the outputs of mergers are kept in it, for `features`; None: they are not kept.

    Attributes:
        order: the paths of the parts in the tower, in the order in which the tower computes them.
        batches: the number of batches of a pass: one for each image.
    """

    def __init__(
        self,
        base: Any,
        preprocessing: Preprocessing,
        images: Sequence[ImageFile],
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._base, self._preprocessing, self._images, self._device = base, preprocessing, list(images), device
        self.tower: nn.Module = base.get_submodule(TOWER)
        self.path = f"{base.base_model_prefix}.{TOWER}"
        self._parts = dict(parts_of(self.tower))
        self._dtype = dtype
        self.batches = len(self._images)
        self._options: dict[Grid, dict[str, dict[str, Any]]] = {}  # of blocks; they depend on the size of an image
        self._merged: list[dict[str, Tensor]] = [{} for _ in self._images]
        self._patches: list[Tensor] = []
        with self._rest():
            for image in self._images:
                self._patches.append(self._first_inputs(image))
        self.order: tuple[str, ...] = tuple(next(iter(self._options.values()), {}))

    @property
    def patches(self) -> int:
        """The number of patches of all images."""
        return sum(self._preprocessing.grid(image).tokens * self._preprocessing.merge**2 for image in self._images)

    def run(self, part: nn.Module, name: str, keep: bool) -> None:
        """Run a part (float32, on the device) over all images; with `keep` its outputs are kept: those of a block as
        the next part's inputs."""
        for number, out in enumerate(self.outputs(part, name)):
            if keep and name.startswith(BLOCKS):
                self._patches[number] = out.cpu()
            elif keep and self._dtype is not None:
                self._merged[number][name] = out.to("cpu", self._dtype)

    def outputs(self, part: nn.Module, name: str) -> Iterator[Tensor]:
        """The outputs of a part (float32, on the device), image by image."""
        for number, image in enumerate(self._images):
            options = self._options[self._preprocessing.grid(image)][name]
            yield part(self._patches[number].to(self._device), **options)

    def halve(self) -> bool:
        """Whether a pass could use less memory: never, because each batch is one image."""
        return False

    def too_large(self, path: str) -> InputError:
        """The error for a part (at `path`) that does not fit the device."""
        largest = max(self._preprocessing.grid(image).tokens for image in self._images)
        return InputError(
            f"{path}: {self._device} does not have enough memory for this part and an image of {largest} tokens; use"
            " smaller images, another device or the CPU"
        )

    def features(self) -> Iterator[list[Tensor]]:
        """The features of each image; see `encode_image`. Every part was run and its outputs kept."""
        self._patches.clear()
        blocks = {part: _same for name, part in self._parts.items() if name.startswith(BLOCKS)}
        with self._rest():
            for image, merged in zip(self._images, self._merged, strict=True):
                mergers = {self._parts[name]: _giving(found.to(self._device)) for name, found in merged.items()}
                with replaced_forwards({**blocks, **mergers}):
                    yield encode_image(self._base, self._preprocessing, image, self._device)
                merged.clear()

    def _first_inputs(self, image: ImageFile) -> Tensor:
        """The input of the first block. The arguments of every block besides its input are recorded."""
        seen: list[Tensor] = []
        options = self._options.setdefault(self._preprocessing.grid(image), {})

        def recorder(name: str, part: nn.Module) -> Callable[..., Tensor]:
            def record(hidden: Tensor, **given: Any) -> Tensor:
                seen.append(hidden)
                options[name] = given
                if name.startswith(BLOCKS):
                    return hidden
                rows = len(hidden) // self._preprocessing.merge**2
                return hidden.new_zeros(rows, last_linear(part).out_features)

            return record

        with replaced_forwards({part: recorder(name, part) for name, part in self._parts.items()}):
            encode_image(self._base, self._preprocessing, image, self._device)
        return seen[0].cpu()

    @contextmanager
    def _rest(self) -> Iterator[None]:
        """Have everything in the tower but its parts on the device in float32."""
        with ExitStack() as stack:
            for name, child in self.tower.named_children():
                if name not in (BLOCKS, *MERGERS):
                    stack.enter_context(read_in_float32(child, self._device, f"{self.path}.{name}"))
            yield


def parts_of(tower: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The blocks and mergers of a tower, by their paths in it."""
    for name in (BLOCKS, *MERGERS):
        found = getattr(tower, name, None)
        if isinstance(found, nn.ModuleList):
            yield from ((f"{name}.{number}", part) for number, part in enumerate(found))
        elif isinstance(found, nn.Module):
            yield name, found


@torch.no_grad()
def image_features(
    base: Any, preprocessing: Preprocessing, images: Sequence[ImageFile], device: torch.device, dtype: torch.dtype
) -> list[list[Tensor]]:
    """The features of each image in `dtype` on the CPU; see `encode_image`. The tower is computed in float32 on
    `device`, part by part. Raises InputError, also if the device does not have enough memory."""
    if not images:
        return []
    inputs = TowerInputs(base, preprocessing, images, device, dtype)
    for name in inputs.order:
        part = inputs.tower.get_submodule(name)
        with read_in_float32(part, device, f"{inputs.path}.{name}"):
            inputs.run(part, name, keep=True)
    return [[layer.to("cpu", dtype) for layer in layers] for layers in inputs.features()]


def _same(hidden: Tensor, **_: Any) -> Tensor:
    return hidden


def _giving(found: Tensor) -> Callable[..., Tensor]:
    return lambda *_, **__: found
