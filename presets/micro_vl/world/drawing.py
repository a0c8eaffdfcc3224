"""A drawing with questions, and what all kinds of drawings share: paper, ink, letters and dirt.

The letters are Pillow's own font (Aileron, CC0), so no font file is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from presets.micro.world.item import split_of

LEVELS = 3  # 0: large letters on clean paper ... 2: small or faint letters and much dirt
DIRT = ((0.0, 0.01), (0.01, 0.03), (0.03, 0.05))  # share of the pixels that get any value, by level
INK = ((0, 60), (20, 90), (40, 110))  # grey value of the letters, by level
PAPER = (220, 255)
GREYS = 16
TOKEN = 16  # pixels of a token of the model in each direction
SLOT = 4  # pixels
LETTERS = " 0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.:"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Content:
    """What a drawing shows: `parts` are names with values in order, `text` says them in words and decides the split.

    `questions` have their answers.
    """

    text: str
    parts: tuple[tuple[str, str], ...]
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Picture:
    """Grey pixels, (height, width), and where things are in them, which only training reads.

    letters: which of LETTERS is in each slot, int64 (rows of tokens, slots); a slot is SLOT pixels wide; 0: none.
    bars: the height of the bar in each column of tokens, int64; 0: there is none.
    """

    pixels: Pixels
    letters: NDArray[np.int64]
    bars: NDArray[np.int64]


@dataclass(frozen=True)
class Drawing:
    """A content and its picture."""

    content: Content
    picture: Picture


@dataclass(frozen=True)
class Kind:
    """A kind of drawings: functions that choose a content, and that draw it at a level."""

    choose: Callable[[Random], Content]
    draw: Callable[[Content, Random, int], Picture]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)  # Pillow without FreeType has only one size
    return found


class Sheet:
    """A sheet of paper to draw on, with one ink; both depend on the level."""

    def __init__(self, rng: Random, width: int, height: int, level: int) -> None:
        self._rng, self._level = rng, level
        self.paper = rng.randint(*PAPER)
        self.ink = rng.randint(*INK[level])
        self._image = Image.new("L", (width, height), self.paper)
        self.pen = ImageDraw.Draw(self._image)
        self._letters = np.zeros((height // TOKEN, width // SLOT), np.int64)
        self._bars = np.zeros(width // TOKEN, np.int64)

    def write(self, x: float, y: float, text: str, size: int, anchor: str = "la") -> None:
        """`anchor` says where (x, y) is in the text, as in Pillow."""
        letters = font(size)
        self.pen.text((x, y), text, self.ink, letters, anchor=anchor)
        left, top, _, bottom = self.pen.textbbox((x, y), text, letters, anchor=anchor)
        row = int((top + bottom) / 2) // TOKEN
        start = left - letters.getbbox(text)[0]
        for end in range(len(text), 0, -1):
            first, last = (start + letters.getlength(text[:n]) for n in (end - 1, end))
            slots = slice(max(0, round(first / SLOT)), max(round(first / SLOT) + 1, round(last / SLOT)))
            self._letters[row, slots] = LETTERS.index(text[end - 1])

    def bar(self, x: int, top: int, right: int, bottom: int, value: int) -> None:
        self.pen.rectangle((x, top, right, bottom), fill=(self.paper + 2 * self.ink) // 3)
        self._bars[(x + right) // 2 // TOKEN] = value

    def rule(self, x: int, y: int) -> None:
        """A faint line from x to the right edge."""
        self.pen.line((x, y, self._image.width, y), fill=(2 * self.paper + self.ink) // 3)

    def picture(self) -> Picture:
        """The sheet with dirt on it, in 16 greys."""
        pixels = np.array(self._image)
        share = self._rng.uniform(*DIRT[self._level])
        hit, value = (np.frombuffer(self._rng.randbytes(pixels.size), np.uint8).reshape(pixels.shape) for _ in range(2))
        dirty = np.where(hit < 256 * share, value, pixels)
        step = 255 // (GREYS - 1)
        greys = ((dirty.astype(np.uint16) + step // 2) // step * step).astype(np.uint8)
        return Picture(greys, self._letters, self._bars)


def drawings(kind: Kind, rng: Random, split: str, shares: Sequence[int] = (1,) * LEVELS) -> Iterator[Drawing]:
    """An endless stream of drawings of `split`, with levels in their shares."""
    while True:
        content = kind.choose(rng)
        if split_of(content.text) == split:
            yield Drawing(content, kind.draw(content, rng, rng.choices(range(LEVELS), shares)[0]))
