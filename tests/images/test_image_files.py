"""Images are read as transformers reads them; every file that cannot be an image of a prompt gives one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image

from converters.errors import InputError
from images.file import open_image

RNG = np.random.default_rng(0)


def noise(mode: str, width: int = 6, height: int = 4) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA").convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a rotation by 90 degrees
    return encoded(noise("RGB"), "JPEG", exif=exif)


READABLE = {
    "RGB": encoded(noise("RGB")),
    "with alpha": encoded(noise("RGBA")),
    "grey": encoded(noise("L")),
    "grey with alpha": encoded(noise("LA")),
    "black and white": encoded(noise("1")),
    "palette": encoded(noise("P")),
    "transparent palette": encoded(noise("P"), transparency=0),
    "CMYK": encoded(noise("RGB").convert("CMYK"), "JPEG"),
    "rotated by EXIF": exif_rotated(),
    "one frame": encoded(noise("P"), "GIF"),
    "WebP": encoded(noise("RGB"), "WEBP"),
}


@pytest.mark.parametrize("kind", READABLE)
def test_pixels_are_those_that_transformers_reads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(READABLE[kind])
    with Image.open(path) as stored:
        stored.load()
        alpha = stored.has_transparency_data
    opened = open_image(path)
    pixels = opened.pixels()
    assert (opened.height, opened.width, 3) == pixels.shape
    if not alpha:  # transformers' load_image already drops the alpha channel, over black
        assert np.array_equal(pixels, np.asarray(load_image(str(path))))
    else:
        with Image.open(path) as stored:
            assert np.array_equal(pixels, convert_to_rgb(stored, return_numpy=True))


def test_sixteen_bits_are_scaled_instead_of_clipped() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    assert open_image(encoded(Image.fromarray(values))).pixels()[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def png(width: int, height: int) -> bytes:
    """A PNG whose header states this size, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


UNREADABLE = {
    "truncated": (encoded(noise("RGB", 200, 200))[:-4000], "cannot be decoded"),
    "truncated JPEG": (encoded(noise("RGB", 200, 200), "JPEG")[:-400], "cannot be decoded: image file is truncated"),
    "empty": (b"", "this is no image in a known format"),
    "text": (b"%!PS-Adobe EPSF", "this is no image in a known format"),
    "a bomb": (png(60000, 60000), "the image has more than 89,478,485 pixels"),
    "a small bomb": (png(10000, 10000), "the image has more than 89,478,485 pixels"),
    "no pixels": (png(0, 5), "this is no image|the image"),
    "animated": (
        encoded(noise("P"), "GIF", save_all=True, append_images=[noise("P")]),
        "the image has 2 frames or pages",
    ),
    "32 bits": (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "32 bits have no known range"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_bad_image_gives_one_line_that_names_the_file(kind: str, tmp_path: Path) -> None:
    data, reason = UNREADABLE[kind]
    path = tmp_path / "receipt.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        open_image(path, f"item 3: {path}")
    assert str(caught.value).startswith(f"item 3: {path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: the image cannot be read \(No such file"):
        open_image(tmp_path / "none.png")


def test_an_image_that_changes_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(READABLE["RGB"])
    opened = open_image(path)
    path.write_bytes(READABLE["grey"])
    with pytest.raises(InputError, match=r"image\.png: the image has changed"):
        opened.pixels()
