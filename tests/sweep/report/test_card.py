"""`sweep report --card`: the Markdown block and its plot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from command_line import call
from stored_runs import Stored, items

from sweep.analysis.run_candidates import advise_on_records
from sweep.commands.launch import remember_command
from sweep.record import MeasuredText, Record, Stopping
from sweep.report.card import render_card, render_plot
from sweep.workspace import Workspace

ABOUT = {"reference": "BF16", "text": "words, windows of 512 tokens", "engine": ["llama.cpp 1", "x"], "torch": "2"}
SVG = "{http://www.w3.org/2000/svg}"


def with_text(records: list[Record]) -> list[Record]:
    return [replace(record, text=MeasuredText("words", "ab" * 32, 512)) for record in records]


def test_the_block_has_each_variant_once_with_its_figures(records: list[Record]) -> None:
    card = render_card(with_text(records), "micro", ABOUT, advise_on_records(records), "card.svg", "sweep run micro")
    rows = {line.split("|")[1].strip(): line for line in card.splitlines() if line.startswith("| ")}
    assert set(rows) == {"Variant", "Q2\\_K", "Q3\\_K\\_M", "Q4\\_K\\_M ►", "Q5\\_K\\_M", "Q6\\_K", "Q8\\_0", "BF16"}
    assert len({line.count("|") for line in card.splitlines() if line.startswith("|")}) == 1
    assert "0.0038" in rows["Q4\\_K\\_M ►"]
    assert "4.85" in rows["Q4\\_K\\_M ►"]
    assert f"- hash of the text: `{'ab' * 32}`" in card
    assert "- engine: llama.cpp 1; x" in card
    assert "in random order" not in card
    assert "\nsweep run micro\n" in card
    assert "](card.svg)" in card


def test_the_block_says_on_how_many_windows_each_variant_was_measured(records: list[Record]) -> None:
    rows = [replace(records[0], stopping={"text": Stopping(64, 1564, "± 4.0 %")}), *records[1:]]
    card = render_card(rows, "micro", ABOUT, advise_on_records(rows), None, None)
    name = rows[0].variant.replace("_", "\\_")
    assert f"- windows of the text, in random order: {name} 64 of 1,564\n" in card


def test_names_are_neither_markdown_nor_html(records: list[Record], hostile: Record) -> None:
    named = replace(records[1], variant="a|b<c>`d`")
    card = render_card([records[0], named, hostile], "m<b>", ABOUT, advise_on_records(records), None, None)
    assert "<script" not in card
    assert "<b>" not in card
    assert "a\\|b&lt;c>\\`d\\`" in card


def test_the_plot_is_an_svg_file_with_a_point_for_each_variant(records: list[Record]) -> None:
    root = ElementTree.fromstring(render_plot(records, "Q4_K_M", "a & b"))
    assert root.tag == f"{SVG}svg"
    titles = [one.text or "" for one in root.iter(f"{SVG}title")]
    assert sorted(title.partition(":")[0] for title in titles) == sorted(
        record.variant for record in records if record.divergence is not None
    )
    assert root.find(f"{SVG}text").text.startswith("a & b: Mean KL divergence")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    found = Workspace(tmp_path_factory.mktemp("card"))
    nll = np.linspace(1.0, 2.0, 8)
    text = {"BF16": (nll, None), "Q4": (nll + 0.01, nll / 100), "Q2": (nll + 0.1, nll / 10)}
    tasks = {"t": {name: items([1.0, 0.0, 1.0, 1.0]) for name in text}}
    plan = Stored("one", tasks, text, speeds={name: [10.0] * 3 for name in text}).put(found)
    remember_command(found.run(plan.run), ["run", "micro", "--tasks", "none"])
    return found


def test_the_command_writes_both_files(space: Workspace, tmp_path: Path) -> None:
    found = call("report", "one", "--card", tmp_path / "card.md", "--workspace", space.root)
    assert found.returncode == 0, found.stderr
    card = (tmp_path / "card.md").read_text()
    assert "\nsweep run micro --tasks none\n" in card
    assert "- hash of the text: `w`" in card
    ElementTree.parse(tmp_path / "card.svg")
    again = call("report", "one", "--card", tmp_path / "card.md", "--workspace", space.root)
    assert again.returncode == 0  # the same content


def test_files_that_cannot_be_written(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "card.svg").write_text("mine")
    for card, message in (
        ("card.md", "card.svg: a file with other content exists"),
        ("card.svg", "the plot is written to this file"),
        ("none/card.md", "none"),
    ):
        found = call("report", "one", "--card", tmp_path / card, "--workspace", space.root)
        assert found.returncode == 2
        assert message in found.stderr
        assert found.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["card.svg"]
    assert (tmp_path / "card.svg").read_text() == "mine"
