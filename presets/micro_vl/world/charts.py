"""Bar charts: bars with a letter below each, and lines that mark the heights 0, 5 and 10."""

from __future__ import annotations

from random import Random

from presets.micro_vl.world.drawing import Content, Kind, Picture, Sheet

WIDTH, HEIGHT = 80, 64
BARS = 4
PITCH = 16  # pixels from bar to bar: one column of tokens
TOP = 10  # the highest value
LABELS = "ABCDEFGHJKLMNPRSTUVXYZ"  # without letters that look like digits or like one another
SIZE = 10  # of letters
BASE, UNIT = 48, 4.2  # pixels from the top to the base, and of a bar of height 1


def choose(rng: Random) -> Content:
    """Bars with letters. Asked is the height of each, and the highest and the lowest bar if there is only one."""
    bars = [(label, rng.randint(1, TOP)) for label in rng.sample(LABELS, BARS)]
    asked = [(f"How high is {label}?", str(value)) for label, value in bars]
    values = [value for _, value in bars]
    for which, extreme in (("highest", max(values)), ("lowest", min(values))):
        if values.count(extreme) == 1:
            asked.append((f"Which bar is the {which}?", bars[values.index(extreme)][0]))
    text = "Chart: " + ", ".join(f"{label} {value}" for label, value in bars) + "."
    return Content(text, tuple((label, str(value)) for label, value in bars), tuple(asked))


def draw(content: Content, rng: Random, level: int) -> Picture:
    sheet = Sheet(rng, WIDTH, HEIGHT, level)
    left = PITCH + 3
    for mark in (0, TOP // 2, TOP):
        y = round(BASE - UNIT * mark)
        sheet.rule(left - 2, y)
        if mark == TOP // 2:
            sheet.write(left - 3, y, str(mark), SIZE, "rm")
    for bar, (label, value) in enumerate(content.parts):
        x = left + PITCH * bar
        sheet.bar(x, round(BASE - UNIT * int(value)), x + 8, BASE, int(value))
        sheet.write(x + 4, BASE + 1, label, SIZE, "ma")
    return sheet.picture()


CHART = Kind(choose, draw)
