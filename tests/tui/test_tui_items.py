"""The window with the items whose answer a variant changed, and their pictures as coloured half blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from changed_run import PICTURE, RED, WHITE, changed_run
from driving import opened, play, shown, until
from textual.geometry import Size

from sweep.workspace import Workspace
from tui.screens.items import ItemsScreen
from tui.screens.results import ResultsScreen
from tui.widgets.note import Note
from tui.widgets.picture import UPPER, Picture, half_blocks
from tui.widgets.table import Table
from tui.widgets.text_pane import TextPane


def test_half_blocks_hold_two_pixels_each_in_the_proportions_of_the_picture() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0], pixels[1], pixels[2:] = RED, WHITE, (1, 2, 3)
    lines = half_blocks(pixels, Size(6, 24))
    assert [line.cell_length for line in lines] == [6, 6]
    (first, *_), (second, *_) = ([*line] for line in lines)
    assert first.text == UPPER
    assert (first.style.color.triplet, first.style.bgcolor.triplet) == (RED, WHITE)
    assert second.style.color.triplet == second.style.bgcolor.triplet == (1, 2, 3)
    wide = half_blocks(np.zeros((240, 480, 3), np.uint8), Size(60, 40))
    assert (len(wide), wide[0].cell_length) == (15, 60)  # a character is twice as high as wide
    tall = half_blocks(np.zeros((480, 240, 3), np.uint8), Size(60, 10))
    assert (len(tall), tall[0].cell_length) == (10, 10)
    large = half_blocks(pixels, Size(12, 24))
    assert [segment.style.bgcolor.triplet for segment in large[0]] == [RED] * 12  # each pixel is four
    assert half_blocks(pixels, Size(0, 5)) == []
    assert len(half_blocks(np.zeros((1, 900, 3), np.uint8), Size(30, 5))) == 1


@pytest.mark.parametrize("width", [140, 80])
def test_the_items_that_a_variant_changes_are_shown_with_their_pictures(tmp_path: Path, width: int) -> None:
    workspace = Workspace(tmp_path / "workspace")
    changed_run(workspace, tmp_path / "tasks")

    async def script() -> None:
        async with opened(workspace, "results", "run-1", (width, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            screen.query_one(Table).go_to("Q2_K")
            await pilot.press("i")
            assert isinstance(app.screen, ItemsScreen)
            picture = app.screen.query_one(Picture)
            await until(pilot, lambda: UPPER in shown(app))
            assert "4 items have another answer than BF16" in shown(app)
            colours = [s.style.color.triplet for s in picture.render_line(2) if s.text == UPPER]
            assert colours[0] == RED
            assert colours[-1] == WHITE
            assert colours.count(RED) == pytest.approx(colours.count(WHITE), abs=2)
            assert "the square 3?" in shown(app)
            assert app.screen.query_one(TextPane).text.plain.endswith(str(tmp_path / "tasks" / PICTURE))
            await pilot.press("j")
            note = app.screen.query_one(Note)
            await until(pilot, lambda: "cannot be read" in note.text.plain)
            assert UPPER not in shown(app)
            await pilot.press("j")
            assert "an earlier version" in shown(app)
            assert "cannot be read" not in note.text.plain
            await pilot.press("j")
            assert "the task's data set" in " ".join(shown(app).split())
            await pilot.press("escape")
            assert app.screen is screen
            screen.query_one(Table).go_to("BF16")
            await pilot.press("i")
            await until(pilot, lambda: "BF16 is the reference" in shown(app))

    play(script())
