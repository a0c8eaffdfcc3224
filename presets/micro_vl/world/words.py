"""Words and numbers to read, two in a line."""

from __future__ import annotations

from random import Random

from presets.micro.world import names
from presets.micro_vl.world.drawing import Content, Kind, Picture, Sheet

WIDTH, HEIGHT = 128, 16
COLUMNS = 2, 66  # where the first and the second word begin
SIZE = 10  # of letters
QUESTION = "What is written here?"
WORDS = sorted(
    {*names.WORDS, *names.OBJECTS, *names.CONTAINERS, *names.GOODS, *names.FOODS, *names.PETS, *names.CRAFTS}
    | {*names.TRADES, *names.METALS, *names.COLOURS}
)


def choose(rng: Random) -> Content:
    """Two words, or a word and a number."""
    second = rng.choice(WORDS) if rng.random() < 0.5 else str(rng.randint(10, 9999))
    line = f"{rng.choice(WORDS)} {second}"
    return Content(f"Words: {line}.", (("line", line),), ((QUESTION, line),))


def draw(content: Content, rng: Random, level: int) -> Picture:
    ((_, line),) = content.parts
    sheet = Sheet(rng, WIDTH, HEIGHT, level)
    top = rng.randint(1, 2)
    for x, word in zip(COLUMNS, line.split(), strict=True):
        sheet.write(x, top, word, SIZE)
    return sheet.picture()


LINE = Kind(choose, draw)
