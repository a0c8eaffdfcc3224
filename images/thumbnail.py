"""Small copies of image files for people: pixels for a terminal, and bytes to write into a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np

from converters.errors import InputError
from images.file import Pixels, open_image

COLOURS = 64  # of a palette: enough for drawings, which are sharper as PNG than as JPEG
QUALITY = 80


def small_copy(file: Path, digest: str, longest: int) -> Pixels:
    """RGB pixels [height, width, 3] of an image, neither side longer than `longest`.

    Raises InputError if the file cannot be read as an image or its SHA-256 is not `digest`.
    """
    from PIL import Image

    opened = open_image(file)
    if opened.digest != digest:
        raise InputError(f"{file}: the image has changed since it was measured")
    image = Image.fromarray(opened.pixels())
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(image)


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """The pixels in another size."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def data_uri(pixels: Pixels) -> str:
    """RGB pixels as a data: URI, as PNG with a palette or as JPEG, whichever is smaller."""
    from PIL import Image

    image = Image.fromarray(pixels)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=QUALITY)
    kind, data = min(("png", png.getvalue()), ("jpeg", jpeg.getvalue()), key=lambda made: len(made[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
