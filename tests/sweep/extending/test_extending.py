"""Extensions: a module that BITSWEEP_EXTENSIONS names adds to the program without a change of it.

The three modules next to this file add a measurement, a method and an executor. One sweep uses all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import presets
from converters.errors import InputError
from sweep.extensions import VARIABLE, load_extensions

HERE = Path(__file__).parent
MICRO = presets.builtin_models()["micro"]
COMMAND = [sys.executable, "-c", "from sweep.cli import main; main()"]
VARIANTS = ["BF16", "Q2_K", "torch:BF16", "rounded:3", "rounded:8"]


@pytest.fixture(scope="module")
def extended() -> dict[str, str]:
    files = [str(HERE / f"{name}.py") for name in ("entropy", "rounded", "pool")]
    files.append(str(HERE.parents[1] / "quick_speed.py"))  # as in other tests; no test here looks at speeds
    return {**os.environ, VARIABLE: os.pathsep.join(files)}


@pytest.fixture(scope="module")
def ran(extended: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The workspace of a sweep, and the JSON lines that it printed."""
    folder = tmp_path_factory.mktemp("extended")
    text = folder / "text.txt"
    text.write_text(MICRO.text.read_text()[:6_000])
    done = subprocess.run(
        [
            *COMMAND, "run", "micro", "--variants", "=Q2_K,rounded:3,rounded:8", "--tasks", "none",
            "--perplexity", text, "--executor", "pool", "--workers", "2", "--workspace", folder / "w",
            "--format", "json",
        ],
        capture_output=True, text=True, timeout=300, env=extended,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "w", [json.loads(line) for line in done.stdout.splitlines()]


def shown(ran: tuple[Path, list[dict[str, Any]]], extended: dict[str, str], *arguments: object) -> str:
    done = subprocess.run(
        [*COMMAND, "report", *map(str, arguments), "--workspace", str(ran[0])],
        capture_output=True, text=True, timeout=100, env=extended,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_variants_of_an_added_method_are_measured(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    records = {record["variant"]: record for record in ran[1][-1]["records"]}
    assert list(records) == VARIANTS
    assert [record["status"] for record in records.values()] == ["ok"] * len(VARIANTS)
    coarse, fine = records["rounded:3"], records["rounded:8"]
    assert (coarse["kind"], coarse["reference"]) == ("rounded", "torch:BF16")
    assert coarse["divergence"]["kld_mean"] > 10 * fine["divergence"]["kld_mean"] > 0
    assert 3 < coarse["bits_per_weight"] < fine["bits_per_weight"] < 16


def test_fit_shows_the_rows_of_an_added_method(extended: dict[str, str]) -> None:
    command = [*COMMAND, "fit", "micro", "--variants", "rounded:04,Q8_0", "--gpu", "8GiB", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=extended)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["variant"], row["kind"]) for row in rows] == [("rounded:4", "rounded"), ("Q8_0", "gguf")]
    assert rows[0]["total_bytes"] > 2 * 5_000_000  # it runs in bfloat16


@pytest.mark.slow
def test_an_added_measurement_is_stored_with_the_right_value(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    from sweep.backends.llama import LlamaBackend
    from sweep.measure.perplexity import cut_windows

    records = {record["variant"]: record for record in ran[1][-1]["records"]}
    backend = LlamaBackend(next(ran[0].rglob("micro-BF16.gguf")))
    windows = cut_windows(backend, MICRO.text.read_text()[:6_000])
    entropies = []
    for part in backend.windows(windows.tokens, windows.first):
        p = np.exp(part.logits.astype(float) - part.logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        entropies.append(-(p * np.log(p)).sum(axis=1))
    backend.close()
    found = records["BF16"]["figures"]["entropy"]
    assert found["value"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert all(record["figures"]["entropy"]["value"] > 0 for record in records.values())


@pytest.mark.slow
def test_an_added_measurement_is_in_the_table_the_page_and_the_csv(
    ran: tuple[Path, list[dict[str, Any]]], extended: dict[str, str], tmp_path: Path
) -> None:
    value = f"{ran[1][-1]['records'][0]['figures']['entropy']['value']:.3f}"
    table = shown(ran, extended)
    assert "entropy" in table
    assert value in table
    shown(ran, extended, "--html", tmp_path / "page.html", "--csv", tmp_path / "rows.csv")
    assert value in (tmp_path / "page.html").read_text()
    assert "figures.entropy.value" in (tmp_path / "rows.csv").read_text().splitlines()[0]


SCREEN = """
import sys
from pathlib import Path
sys.path.append(sys.argv[2])
from driving import opened, play, shown, until
from sweep.workspace import Workspace

async def script():
    async with opened(Workspace(Path(sys.argv[1])), "results", None, (160, 40)) as (app, pilot):
        await until(pilot, lambda: app.screen.results is not None)
        await until(pilot, lambda: "entropy" in shown(app))
        print(shown(app))

play(script())
"""


@pytest.mark.slow
def test_the_results_screen_shows_an_added_measurement(
    ran: tuple[Path, list[dict[str, Any]]], extended: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCREEN, str(ran[0]), str(HERE.parents[1] / "tui")],
        capture_output=True, text=True, timeout=100, env=extended,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for record in ran[1][-1]["records"]:
        assert record["variant"] in done.stdout
        assert f"{record['figures']['entropy']['value']:.3f}" in done.stdout


@pytest.mark.slow
def test_an_added_executor_runs_two_jobs_at_the_same_time(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    running, most = set[str](), 0
    for event in ran[1]:
        if event["event"] == "cell_started":
            running.add(event["cell"])
        elif event["event"] == "cell_done":
            running.discard(event["cell"])
        exclusive = {cell for cell in running if cell.endswith("/speed")}
        assert not exclusive or len(running) == 1
        most = max(most, len([cell for cell in running if not cell.endswith("/export")]))
    assert most == 2


@pytest.mark.slow
def test_without_its_extensions_a_run_is_named_as_unreadable(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    plain = {name: value for name, value in os.environ.items() if name != VARIABLE}
    runs = subprocess.run(
        [*COMMAND, "runs", "--workspace", ran[0]], capture_output=True, text=True, timeout=100, env=plain
    )
    assert runs.returncode == 0
    assert runs.stderr.startswith("sweep: run micro-q2-q8-")
    assert "cannot be read: there is no kind of job 'entropy'; name the extension" in " ".join(runs.stderr.split())


def test_an_extension_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_extensions.cache_clear()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.py"))
    with pytest.raises(InputError, match=r"none\.py: there is no such Python file"):
        load_extensions()
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "broken.py"))
    with pytest.raises(InputError, match=r"broken\.py: cannot be imported .*division by zero"):
        load_extensions()
    monkeypatch.delenv(VARIABLE)
    load_extensions.cache_clear()
