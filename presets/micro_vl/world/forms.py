"""Forms: rows with the name of a field and its value, like invoices and other documents."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from presets.micro.world import names
from presets.micro_vl.world.drawing import Content, Kind, Picture, Sheet

WIDTH, HEIGHT = 96, 64
ROWS = 4
PITCH = 16  # pixels from row to row: one row of tokens
SIZE = 10  # of letters

# name of a field -> function that draws its value
FIELDS: dict[str, Callable[[Random], str]] = {
    "Name": lambda rng: rng.choice(names.PEOPLE),
    "City": lambda rng: rng.choice(names.PLACES),
    "Job": lambda rng: rng.choice(names.CRAFTS),
    "Pet": lambda rng: rng.choice(names.PETS),
    "Food": lambda rng: rng.choice(names.FOODS),
    "Sum": lambda rng: str(rng.randint(10, 999)),
    "Code": lambda rng: str(rng.randint(1000, 9999)),
    "Day": lambda rng: f"{rng.randint(1, 28)}.{rng.randint(1, 12)}.",
}


def choose(rng: Random) -> Content:
    """Some of the fields with values, in any order."""
    rows = tuple((field, FIELDS[field](rng)) for field in rng.sample(list(FIELDS), ROWS))
    text = "Form: " + ", ".join(f"{field} {value}" for field, value in rows) + "."
    return Content(text, rows, tuple((f"What is the {field.lower()}?", value) for field, value in rows))


def draw(content: Content, rng: Random, level: int) -> Picture:
    sheet = Sheet(rng, WIDTH, HEIGHT, level)
    left, column, top = 2, 36, rng.randint(1, 2)
    ruled, colon = rng.random() < 0.3, ":" * rng.randrange(2)
    for row, (field, value) in enumerate(content.parts):
        y = top + PITCH * row
        sheet.write(left, y, field + colon, SIZE)
        sheet.write(column, y, value, SIZE)
        if ruled:
            sheet.rule(0, y + PITCH - 1)
    return sheet.picture()


FORM = Kind(choose, draw)
