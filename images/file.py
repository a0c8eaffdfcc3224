"""Reads image files, which may be damaged or hostile, into RGB pixels.

Pillow decodes. Only formats whose decoders run inside Pillow are read: EPS, for example, would start Ghostscript.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
"""Endings of the names of their files, in lower case."""
WHITE = (255, 255, 255, 255)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageFile:
    """An image of a prompt: the bytes of a file, which are decoded when they are needed.

    Attributes:
        name: what messages call it: its path, or an item and its path.
        data: the file, or its bytes.
        digest: SHA-256 of the bytes, in hexadecimal.
        width, height: pixels, as a viewer shows the image (after EXIF rotation).
        min_pixels, max_pixels: limits for the resized image, instead of those of the image processor.
    """

    name: str
    data: Path | bytes
    digest: str
    width: int
    height: int
    min_pixels: int | None = None
    max_pixels: int | None = None

    @property
    def content(self) -> str:
        """Equal for images that a model cannot tell apart: the same bytes with the same limits."""
        return self.digest if self.limits == (None, None) else f"{self.digest} {self.limits}"

    @property
    def limits(self) -> tuple[int | None, int | None]:
        return self.min_pixels, self.max_pixels

    def pixels(self) -> Pixels:
        """RGB pixels, uint8 (height, width, 3). Raises InputError if the file has changed since it was opened."""
        raw = _read(self.name, self.data)
        if hashlib.sha256(raw).hexdigest() != self.digest:
            raise InputError(f"{self.name}: the image has changed while it was in use; run the command again")
        return _decoded(self.name, raw)


def open_image(data: Path | bytes, name: str | None = None) -> ImageFile:
    """Open an image and check that it can be decoded. `name` is its name in messages, by default the path.

    Raises InputError for a file that is no image or damaged, that has several frames, or that has more pixels than
    Pillow accepts (89 million).
    """
    name = name or (str(data) if isinstance(data, Path) else "image")
    raw = _read(name, data)
    height, width, _ = _decoded(name, raw).shape
    return ImageFile(name, data, hashlib.sha256(raw).hexdigest(), width, height)


def _read(name: str, data: Path | bytes) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        return data.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: the image cannot be read ({error.strerror})") from error


def _decoded(name: str, raw: bytes) -> Pixels:
    from PIL import Image, ImageOps  # here, so that programs without images start faster

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, which is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(raw), formats=FORMATS)
            if min(image.size) < 1:
                raise InputError(f"{name}: the image has {image.width} x {image.height} pixels")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise InputError(f"{name}: the image has {frames} frames or pages; give a file with one")
            image.load()
            return _rgb(name, ImageOps.exif_transpose(image))
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{name}: the image has more than {Image.MAX_IMAGE_PIXELS:,} pixels; give a smaller one"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name}: this is no image in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name}: the image cannot be decoded: {reason}") from error


def _rgb(name: str, image: Any) -> Pixels:
    """RGB pixels, with transparent parts on white, as transformers' image processors have them."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # Pillow's own conversion to RGB would turn all values above 255 into white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise InputError(f"{name}: pixels of 32 bits have no known range; give an image with 8 or 16 bits")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
