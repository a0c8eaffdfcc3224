"""What the image processors of Qwen's vision models do: resize, normalize, cut into patches.

Source: transformers, `models/qwen2_vl/image_processing_pil_qwen2_vl.py`, which Qwen2.5-VL, Qwen3-VL and Qwen3.5 use
with different settings. Its filter is Pillow's; the variant of transformers that uses torchvision rounds some values to
the next of 255 levels. llama.cpp's own preprocessing keeps the aspect ratio with a border and rounds differently, so
images are brought to their final size here for both engines.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from images.file import ImageFile, Pixels

MAX_ASPECT_RATIO = 200  # of transformers' smart_resize
CONFIG_FILES = (("processor_config.json", "image_processor"), ("preprocessor_config.json", None))
PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil")
BICUBIC = 3  # PIL's number in configs


@dataclass(frozen=True)
class Grid:
    """The tokens of an image in the text model, row by row."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @property
    def positions(self) -> int:
        """How far the image advances the M-RoPE position of the text after it."""
        return max(self.rows, self.columns)


@dataclass(frozen=True)
class Preprocessing:
    """The settings of a checkpoint's image processor.

    Attributes:
        patch: pixels of a patch in each direction.
        merge: patches that become one token in each direction.
        frames: how often an image is repeated, as frames of a video.
        min_pixels, max_pixels: limits for the resized image.
        mean, std: of each channel, for values between 0 and 1.
        rescale: factor that makes these values from the pixels.
        fixed: whether the limits are those of the user, which the limits of an image do not replace.
    """

    patch: int
    merge: int
    frames: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float = 1 / 255
    fixed: bool = False

    @property
    def token_pixels(self) -> int:
        """Pixels of a token in each direction."""
        return self.patch * self.merge

    def limited(self, min_pixels: int | None = None, max_pixels: int | None = None) -> Preprocessing:
        """These settings with other limits of pixels; None keeps a limit."""
        return replace(self, min_pixels=min_pixels or self.min_pixels, max_pixels=max_pixels or self.max_pixels)

    def limits(self, of_image: tuple[int | None, int | None]) -> tuple[int, int]:
        """The limits of pixels for an image or a task that states some: the lowest and the highest number."""
        limited = self if self.fixed else self.limited(*of_image)
        return limited.min_pixels, limited.max_pixels

    def grid(self, image: ImageFile) -> Grid:
        """The tokens of an image. Raises InputError for an extreme aspect ratio."""
        try:
            return self.limited(*self.limits(image.limits)).grid_of(image.width, image.height)
        except InputError as error:
            raise InputError(f"{image.name}: {error}") from error

    def grid_of(self, width: int, height: int) -> Grid:
        """The tokens of an image of this size in pixels (transformers' smart_resize). Raises InputError."""
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise InputError(
                f"an image of {width} x {height} pixels is too long and narrow: Qwen's image processors accept up to "
                f"{MAX_ASPECT_RATIO} : 1"
            )
        unit = self.token_pixels
        rows, columns = round(height / unit), round(width / unit)  # half to even, as Python rounds
        if rows * columns * unit**2 > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(1, math.floor(side / shrink / unit)) for side in (height, width))
        elif rows * columns * unit**2 < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(side * grow / unit) for side in (height, width))
        return Grid(rows, columns)

    def resized(self, image: ImageFile) -> Pixels:
        """The image at its final size, uint8 (rows * token_pixels, columns * token_pixels, 3)."""
        from PIL import Image  # here, so that programs without images start faster

        grid, unit = self.grid(image), self.token_pixels
        size = (grid.columns * unit, grid.rows * unit)
        return np.asarray(Image.fromarray(image.pixels()).resize(size, Image.Resampling.BICUBIC))

    def patches(self, resized: Pixels) -> NDArray[np.float32]:
        """The input of the vision tower, float32 (patches, 3 * frames * patch * patch).

        The patches of a token follow one another. `resized` is at its final size.
        """
        scaled = (resized.astype(np.float64) * self.rescale).astype(np.float32)
        pixels = np.divide(np.subtract(scaled, self.mean, dtype=np.float32), self.std, dtype=np.float32)
        rows, columns = (side // self.token_pixels for side in pixels.shape[:2])
        split = pixels.reshape(rows, self.merge, self.patch, columns, self.merge, self.patch, 3)
        ordered = split.transpose(0, 3, 1, 4, 6, 2, 5)  # row, column, patch row, patch column, channel, y, x
        repeated = np.broadcast_to(ordered[:, :, :, :, :, None], (*ordered.shape[:5], self.frames, *ordered.shape[5:]))
        return repeated.reshape(rows * columns * self.merge**2, -1)


def read_preprocessing(directory: Path) -> Preprocessing:
    """The settings of the image processor of a checkpoint directory.

    Raises InputError if there is no config of an image processor, or if it asks for something else than this module
    does.
    """
    path, settings = _settings(directory)
    kind = settings.get("image_processor_type")
    if kind not in PROCESSORS:
        raise InputError(f"{path}: unknown image_processor_type {kind!r}; known: {', '.join(PROCESSORS)}")
    for key in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        if settings.get(key, True) is not True:
            raise InputError(f"{path}: {key} is {settings[key]!r}; only true is supported")
    if settings.get("resample", BICUBIC) != BICUBIC:
        raise InputError(f"{path}: resample is {settings['resample']!r}; only {BICUBIC} (bicubic) is supported")
    size = settings.get("size") or {}
    try:
        found = Preprocessing(
            patch=int(settings.get("patch_size", 14)),
            merge=int(settings.get("merge_size", 2)),
            frames=int(settings.get("temporal_patch_size", 2)),
            min_pixels=int(settings.get("min_pixels") or size.get("shortest_edge", 56 * 56)),
            max_pixels=int(settings.get("max_pixels") or size.get("longest_edge", 28 * 28 * 1280)),
            mean=tuple(map(float, settings.get("image_mean", (0.48145466, 0.4578275, 0.40821073)))),
            std=tuple(map(float, settings.get("image_std", (0.26862954, 0.26130258, 0.27577711)))),
            rescale=float(settings.get("rescale_factor", 1 / 255)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: a setting of the image processor is no number: {error}") from error
    if min(found.patch, found.merge, found.frames, found.min_pixels) < 1 or found.max_pixels < found.min_pixels:
        raise InputError(f"{path}: sizes of the image processor must be positive, and min_pixels <= max_pixels")
    if len(found.mean) != 3 or len(found.std) != 3 or min(found.std) <= 0:
        raise InputError(f"{path}: image_mean and image_std need three numbers, and image_std positive ones")
    return found


def _settings(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The file with the settings, and these. As in transformers, the config of a processor comes first."""
    for name, key in CONFIG_FILES:
        path = directory / name
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: this is no JSON: {error}") from error
        if key is not None and isinstance(settings, dict):
            if key not in settings:
                continue
            settings = settings[key]
        if not isinstance(settings, dict):
            raise InputError(f"{path}: the settings of the image processor are no JSON object")
        return path, settings
    raise InputError(f"{directory}: there is no {CONFIG_FILES[-1][0]}, so this model has no settings for images")
