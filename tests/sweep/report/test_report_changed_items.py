"""The items whose answer changed: which ones, in which order, what they ask, and their pictures inside the page."""

from __future__ import annotations

import base64
import io
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from changed_run import PICTURE, RED, TASK, WHITE, changed_run
from command_line import call
from PIL import Image

from converters.errors import InputError
from images.thumbnail import data_uri, small_copy
from sweep.analysis.changed_items import changed_items
from sweep.analysis.item_answers import ChangedItems
from sweep.report.html import render_html
from sweep.results.store import Store
from sweep.workspace import Workspace


def found(tmp_path: Path, limit: int = 30, variants: list[str] | None = None) -> list[ChangedItems]:
    workspace = Workspace(tmp_path / "workspace")
    plan = changed_run(workspace, tmp_path / "tasks")
    with Store(workspace.database) as store:
        return changed_items(plan, store, workspace.root, limit, variants)


def test_the_largest_losses_come_first_with_question_answers_and_image(tmp_path: Path) -> None:
    (group,) = found(tmp_path)
    assert (group.task, group.reference, group.changed) == (TASK, "BF16", 4)
    assert [item.doc_id for item in group.shown] == [3, 4, 2, 1]  # lost by two, lost by one, as wrong, a gain
    lost, missing, unknown, gained = group.shown
    assert lost.text == "What <colour> is\nthe square 3?"
    assert (lost.target, lost.before.words) == ("red", "red")
    assert [(a.variant, a.words, a.gain) for a in lost.after] == [("Q2_K", "blue", -1), ("Q4_K_M", "green", -1)]
    assert [image.file for image in lost.images] == [tmp_path / "tasks" / PICTURE]
    assert missing.images[0].file == tmp_path / "tasks" / "pictures/none.png"
    assert (unknown.text, unknown.before.words, unknown.after[0].words) == (None, "1", "2")
    assert [image.file for image in gained.images] == [None]
    assert gained.after[0].gain == 1


def test_a_limit_leaves_out_the_smallest_losses_and_variants_can_be_named(tmp_path: Path) -> None:
    (group,) = found(tmp_path, limit=2, variants=["Q4_K_M"])
    assert [item.doc_id for item in group.shown] == [3]
    assert found(tmp_path / "again", variants=["BF16"]) == []


def test_the_page_holds_the_pictures_and_says_which_it_lacks(tmp_path: Path) -> None:
    groups = found(tmp_path)
    page = render_html([], {"model": "m"}, changed=groups)
    (address,) = re.findall('<img src="([^"]*)"', page)  # the only picture that is a file
    assert "are shown" not in page
    assert "vl_form: 4 items with another answer than BF16" in page
    assert "What &lt;colour&gt; is<br>the square 3?" in page
    assert "The image is in the task&#39;s data set" in page
    assert "none.png: the image cannot be read" in page
    assert "an earlier version measured this item" in page
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert image.size == (480, 240)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels[120, 100] - RED).max() < 8
    assert np.abs(pixels[120, 400] - WHITE).max() < 8
    (tmp_path / "tasks" / PICTURE).write_bytes((tmp_path / "tasks" / PICTURE).read_bytes() + b" ")
    later = render_html([], {"model": "m"}, changed=groups)
    assert "<img" not in later
    assert "the image has changed since it was measured" in later


def test_a_photo_is_small_in_a_page(tmp_path: Path) -> None:
    """So a page with the largest number of pictures has a few megabytes."""
    noise = np.random.default_rng(0).normal(128, 20, (90, 120, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise).resize((2400, 1800)).save(tmp_path / "photo.jpg")
    from images.file import open_image

    pixels = small_copy(tmp_path / "photo.jpg", open_image(tmp_path / "photo.jpg").digest, 480)
    assert pixels.shape == (360, 480, 3)
    assert len(data_uri(pixels)) < 60_000
    with pytest.raises(InputError, match="changed since it was measured"):
        small_copy(tmp_path / "photo.jpg", "0" * 64, 480)


def test_the_command_writes_them_and_an_unreadable_question_is_one_line(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    changed_run(workspace, tmp_path / "tasks")
    page = tmp_path / "page.html"
    done = call("report", "run-1", "--html", page, "--workspace", workspace.root)
    assert done.returncode == 0, done.stderr
    assert page.read_text().count("<img ") == 1
    with sqlite3.connect(workspace.database) as database:
        database.execute("UPDATE questions SET question = 'x' WHERE doc_hash = 'd3'")
    database.close()
    done = call("report", "run-1", "--html", page, "--force", "--workspace", workspace.root)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "the stored question of document 3 of vl_form cannot be read" in done.stderr
