"""The tokens of images in llama.cpp, and the memory of a vision tower: data of a fit report.

Source: llama.cpp, `tools/mtmd/mtmd-image.cpp` (`calc_size_preserved_ratio`). It rounds halves up, in single precision,
and has limits of its own in place of those of the checkpoint's image processor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from converters.errors import InputError
from images.preprocessing import Grid

MIN_TOKENS, MAX_TOKENS = 8, 4096
"""llama.cpp's limits for Qwen-VL models; --image-min-tokens and --image-max-tokens of llama-server change them."""
MAX_SIDE = 46_000  # llama.cpp aborts the process on more pixels per side
MAX_COUNT = 10_000


@dataclass(frozen=True)
class ImageSize:
    """`count` images of a size in pixels. Raises InputError if the numbers are out of range."""

    width: int
    height: int
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_SIDE or not 1 <= self.height <= MAX_SIDE:
            raise InputError(f"--image {self}: a side must have from 1 to {MAX_SIDE:,} pixels")
        if not 1 <= self.count <= MAX_COUNT:
            raise InputError(f"--image {self}: the number of images must be from 1 to {MAX_COUNT:,}")

    def __str__(self) -> str:
        return f"{f'{self.count}x' if self.count != 1 else ''}{self.width}x{self.height}"

    def grid(self, token_pixels: int) -> Grid:
        """The tokens of one image; `token_pixels` are the pixels of a token in each direction."""
        unit, height, width = (np.float32(one) for one in (token_pixels, self.height, self.width))
        least, most = (np.float32(tokens * token_pixels**2) for tokens in (MIN_TOKENS, MAX_TOKENS))
        rows, columns = (max(1, math.floor(side / unit + np.float32(0.5))) for side in (height, width))
        if rows * columns > MAX_TOKENS:
            shrink = np.sqrt(height * width / most)
            rows, columns = (max(1, math.floor(side / shrink / unit)) for side in (height, width))
        elif rows * columns < MIN_TOKENS:
            grow = np.sqrt(least / (height * width))
            rows, columns = (math.ceil(side * grow / unit) for side in (height, width))
        return Grid(rows, columns)


@dataclass(frozen=True)
class ImageTokens:
    """Images of a prompt, and the tokens that each takes in the context."""

    width: int
    height: int
    count: int
    tokens: int


@dataclass(frozen=True)
class ProjectorFit:
    """The vision tower in memory: its projector file, and what it needs for the largest of `images`.

    `name` is the type of a file that has yet to be made, or the path of one that exists, or hub:OWNER/REPO/FILE.gguf.
    """

    name: str
    exists: bool
    file_bytes: int
    weights_bytes: int
    compute_bytes: int
    images: tuple[ImageTokens, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens that all images of a prompt take in the context."""
        return sum(image.count * image.tokens for image in self.images)
