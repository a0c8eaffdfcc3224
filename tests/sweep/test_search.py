"""`--search smallest-first`: the sweep ends at the first variant that the advice chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call

import presets

LARGER = ("Q6_K", "Q8_0")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("search")
    text = folder / "test.txt"
    text.write_text(presets.builtin_models()["micro"].text.read_text()[:12_000])
    options = ["--tasks", "none", "--measure", "text", "--perplexity", str(text), "--workspace", str(folder / "w")]
    return ["micro", "--variants", "=Q8_0,Q2_K,Q6_K,Q5_K_M", *options, "--format", "json"]


def run(arguments: list[str], *more: str) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], str]:
    """The events, the records by variant, and the recommended variant."""
    done = call("run", *arguments, *more)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    records = {record["variant"]: record for record in lines[-1]["records"]}
    return lines[:-1], records, lines[-1]["advice"]["variant"]


def test_larger_variants_are_left_out_and_said_to_be(arguments: list[str]) -> None:
    events, records, advised = run(arguments, "--search", "smallest-first")
    started = [event["cell"] for event in events if event["event"] == "cell_started"]
    assert [cell for cell in started if cell.endswith("/export")] == ["BF16/export", "Q2_K/export", "Q5_K_M/export"]
    texts = [cell.partition("/")[0] for cell in started if cell.endswith("/text")]
    assert texts == ["BF16", "Q2_K", "Q5_K_M"]  # the reference, then from the smallest up
    (dropped,) = (event["dropped"] for event in events if event["event"] == "cells_dropped")
    assert {label.partition("/")[0] for label in dropped} == set(LARGER)
    assert advised == "Q5_K_M"
    for name in LARGER:
        assert (records[name]["status"], records[name]["divergence"]) == ("skipped", None)
        assert records[name]["error"] == "is larger than Q5_K_M, which is good enough"
        assert records[name]["file_bytes"] > records["Q5_K_M"]["file_bytes"]

    # the stored run says the same, and nothing is left to do
    report = call("report", "--workspace", arguments[arguments.index("--workspace") + 1])
    assert report.stdout.count("is larger than Q5_K_M, which is good enough") == 2
    again = run(arguments, "--search", "smallest-first")
    assert [event["event"] for event in again[0] if event["event"].startswith("cell")] == ["cells_dropped"]
    assert again[1:] == (records, advised)

    # a run of all variants takes over what is stored, and recommends the same one
    events, everything, advised = run(arguments)
    started = [
        event["cell"] for event in events if event["event"] == "cell_started" and event["cell"].endswith("/text")
    ]
    assert started == [f"{name}/text" for name in reversed(LARGER)] or started == [f"{name}/text" for name in LARGER]
    assert {record["status"] for record in everything.values()} == {"ok"}
    assert advised == "Q5_K_M"


def test_what_larger_variants_need_is_not_made(arguments: list[str], tmp_path: Path) -> None:
    """Neither their checkpoints nor their reference."""
    search = ("--search", "smallest-first", "--workspace")
    events, records, advised = run(arguments, *search, str(tmp_path / "1"), "--variants", "=Q5_K_M,rtn:w8,rtn:w2g128")
    assert advised == "Q5_K_M"
    started = [event["cell"] for event in events if event["event"] == "cell_started"]
    order = list(dict.fromkeys(cell.rpartition("/")[0] for cell in started))
    assert order == [
        "BF16",
        "torch:BF16",
        "rtn:w2g128",
        "Q5_K_M",
    ]  # smallest first, each after what it is compared with
    assert records["rtn:w8"]["error"] == "is larger than Q5_K_M, which is good enough"

    events, records, advised = run(arguments, *search, str(tmp_path / "2"), "--variants", "=Q5_K_M,rtn:w8")
    assert advised == "Q5_K_M"
    (dropped,) = (event["dropped"] for event in events if event["event"] == "cells_dropped")
    assert {cell.rpartition("/")[0] for cell in dropped} == {"torch:BF16", "rtn:w8"}
    assert records["torch:BF16"]["error"] == "is not needed: no variant is compared with it"


def test_with_a_target_that_only_a_large_variant_reaches_the_search_goes_on(arguments: list[str]) -> None:
    _, records, advised = run(arguments, "--search", "smallest-first", "--max-kld", "0.0002")
    assert advised == "Q8_0"
    assert {record["status"] for record in records.values()} == {"ok"}


def test_it_is_for_one_model(tmp_path: Path) -> None:
    done = call("run", "micro", "nano", "--search", "smallest-first", "--workspace", str(tmp_path))
    assert (done.returncode, done.stderr.strip()) == (2, "sweep: --search is for one model; run it for each of them")
