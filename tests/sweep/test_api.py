"""What notebooks use: the records of a workspace and the answers of `sweep fit` as tables."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from command_line import call

import sweep
from converters.errors import InputError, MissingRuntime
from sweep import api

EARLIER = Path(__file__).parent / "earlier"
EXAMPLE = Path(__file__).parents[2] / "docs/examples/notebook.py"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with a run of micro."""
    shutil.copy(EARLIER / "sweep.db", tmp_path)
    return tmp_path


def test_records_are_a_frame_with_the_columns_of_the_csv(folder: Path) -> None:
    found = sweep.open_workspace(folder).records(EXPECTED["run"])
    assert isinstance(found, pd.DataFrame)
    call("report", EXPECTED["run"], "--csv", folder / "records.csv", "--workspace", folder)
    written = list(csv.DictReader((folder / "records.csv").read_text().splitlines()))
    assert list(found["variant"]) == [row["variant"] for row in written]
    for name in ("bits_per_weight", "perplexity.value", "divergence.kld_mean", "tasks.micro_facts.delta"):
        values = ["" if pd.isna(value) else str(value) for value in found[name]]
        assert values == [row[name] for row in written], name
    assert set(found["run"]) == {EXPECTED["run"]}


def test_runs_are_listed_and_found_by_their_beginning(folder: Path) -> None:
    space = sweep.open_workspace(str(folder))
    (run,) = [row for row in space.runs(frame="rows") if row["run"] == EXPECTED["run"]]
    assert run["model"] == "micro"
    assert run["done"] == run["jobs"] > 0
    assert len(space.records(EXPECTED["run"][:-2], frame="rows")) == len(EXPECTED["records"])
    with pytest.raises(InputError, match="no such run"):
        space.records("nothing")


def test_a_folder_that_is_no_workspace_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: this is no workspace with runs"):
        sweep.open_workspace(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_without_a_library_of_frames_the_message_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_spec", lambda _: None)
    space = sweep.open_workspace(folder)
    with pytest.raises(MissingRuntime, match="needs pandas or polars, which is not installed: pip install pandas"):
        space.records()
    with pytest.raises(MissingRuntime, match=r"needs polars, .*frame='rows'"):
        space.records(frame="polars")
    assert space.records(frame="rows")
    with pytest.raises(InputError, match="frame='excel' is not a kind of table"):
        space.records(frame="excel")  # type: ignore[arg-type]


def test_polars_gets_the_same_table(folder: Path) -> None:
    pl = pytest.importorskip("polars")
    space = sweep.open_workspace(folder)
    found = space.records(frame="polars")
    assert isinstance(found, pl.DataFrame)
    assert found["variant"].to_list() == list(space.records(frame="pandas")["variant"])


def test_fit_is_a_function_with_the_rows_of_the_command() -> None:
    names = ["Q4_K_M", "Q8_0"]
    found = sweep.what_fits("Qwen3-8B", gpu="8GiB", variants=names, ctx=16_384, frame="rows")
    printed = call(
        "fit", "Qwen3-8B", "--gpu", "8GiB", "--variants", ",".join(names), "--ctx", 16_384, "--format", "json"
    )
    rows = json.loads(printed.stdout)["rows"]
    for own, row in zip(found, rows, strict=True):
        assert {name: own[name] for name in ("variant", "verdict", "total_bytes", "file_bytes")} == {
            name: row[name] for name in ("variant", "verdict", "total_bytes", "file_bytes")
        }
    assert {row["context"] for row in found} == {16_384}


def test_the_example_runs(folder: Path) -> None:
    done = subprocess.run([sys.executable, EXAMPLE, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "divergence.kld_mean" in done.stdout
    assert done.stdout.count("Q8_0") == 1  # in the answer of fit


def test_importing_sweep_loads_nothing_heavy() -> None:
    code = "import sys, sweep; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "llama_cpp", "numpy", "pandas", "transformers", "converters"} & set(loaded)
