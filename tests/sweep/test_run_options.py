"""Options of `sweep run`: importance matrices, files on the hub, split files, --keep, and plans of models that are not
downloaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, call
from hub_server import serve

import presets
from converters.export import export, open_source
from converters.llamacpp.reader import read_header

MICRO = presets.builtin_models()["micro"]


def sweep(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return call("run", *arguments)


def sweep_with(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a new process, because huggingface_hub reads its environment when it is imported."""
    return subprocess.run(
        [*COMMAND, "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0", **environment},
    )


def finished(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr + done.stdout[-500:]
    return {record["variant"]: record for record in json.loads(done.stdout.splitlines()[-1])["records"]}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A short text to measure with and a short text to calibrate with."""
    directory = tmp_path_factory.mktemp("texts")
    (directory / "test.txt").write_text(MICRO.text.read_text()[:8_000])
    (directory / "calibration.txt").write_text(MICRO.calibration.read_text()[:12_000])
    return directory / "test.txt", directory / "calibration.txt"


@pytest.fixture(scope="module")
def small(texts: tuple[Path, Path]) -> list[str | Path]:
    return ["micro", "--tasks", "none", "--perplexity", texts[0], "--format", "json"]


@pytest.fixture(scope="module")
def with_imatrix(
    texts: tuple[Path, Path], small: list[str | Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str | Path], dict[str, dict[str, Any]]]:
    workspace = tmp_path_factory.mktemp("weighed")
    options = ["--imatrix", "auto", "--calibration", texts[1], "--workspace", workspace]
    arguments = [*small, "--variants", "=IQ2_XXS,Q2_K,Q8_0", *options]
    return workspace, arguments, finished(sweep(*arguments))


@pytest.mark.slow
def test_importance_is_collected_from_the_reference_and_lowers_the_divergence(
    with_imatrix: tuple[Path, list[str | Path], dict[str, dict[str, Any]]], small: list[str | Path]
) -> None:
    workspace, arguments, records = with_imatrix
    assert {record["status"] for record in records.values()} == {"ok"}
    (matrix,) = workspace.rglob("*.imatrix.gguf")
    plain = finished(sweep(*small, "--variants", "=Q2_K", "--workspace", workspace))
    assert records["Q2_K"]["divergence"]["kld_mean"] < plain["Q2_K"]["divergence"]["kld_mean"]
    assert records["BF16"] == plain["BF16"]
    made = {path.name: read_header(path).metadata for path in workspace.rglob("micro-*.gguf") if path != matrix}
    assert len(made) == 5  # Q2_K is named twice
    named = {name for name, metadata in made.items() if "quantize.imatrix.file" in metadata}
    assert len(named) == 3
    assert not any("BF16" in name for name in named)
    again = sweep(*arguments)
    assert json.loads(again.stdout.splitlines()[0])["todo"] == 0
    assert finished(again) == records
    report = workspace / "runs" / json.loads(again.stdout.splitlines()[-1])["run"] / "report.html"
    assert re.search(
        r"collected from calibration.txt; \d+ chunks of 512 tokens, 42 of 42 matrices covered", report.read_text()
    )


@pytest.mark.slow
def test_a_matrix_of_the_user_is_reported_with_its_coverage(
    with_imatrix: tuple[Path, list[str | Path], dict[str, dict[str, Any]]], small: list[str | Path], tmp_path: Path
) -> None:
    (matrix,) = with_imatrix[0].rglob("*.imatrix.gguf")
    done = sweep(*small, "--variants", "=IQ2_XXS", "--imatrix", matrix, "--workspace", tmp_path)
    assert finished(done)["IQ2_XXS"]["divergence"] == with_imatrix[2]["IQ2_XXS"]["divergence"]
    (report,) = tmp_path.glob("runs/*/report.html")
    assert f"{matrix.name}; 7 chunks of 512 tokens, 42 of 42 matrices covered" in report.read_text()


@pytest.mark.slow
def test_keep_removes_files_as_soon_as_they_are_not_needed(
    with_imatrix: tuple[Path, list[str | Path], dict[str, dict[str, Any]]], small: list[str | Path]
) -> None:
    workspace, arguments, records = with_imatrix
    made = {path.name for path in workspace.rglob("micro-*.gguf")}
    assert finished(sweep(*arguments, "--keep", "all")) == records
    assert {path.name for path in workspace.rglob("micro-*.gguf")} == made
    assert finished(sweep(*arguments, "--keep", "best")) == records
    kept = {path.name for path in workspace.rglob("micro-*.gguf")} - {"micro-Q2_K.gguf"}  # that of a plain sweep
    assert len(kept) == 1
    assert kept < made
    assert finished(sweep(*arguments, "--keep", "none")) == records
    assert {path.name for path in workspace.rglob("micro-*.gguf")} <= {"micro-Q2_K.gguf"}
    # a run with new measurements makes its files again
    more = finished(sweep(*arguments[:-2], "--workspace", workspace, "--limit", "2", "--tasks", "micro_form"))
    assert more["Q8_0"]["divergence"] == records["Q8_0"]["divergence"]
    assert more["Q8_0"]["tasks"]["micro_form"]["n"] == 2


def test_keep_none_keeps_no_file(small: list[str | Path], tmp_path: Path) -> None:
    records = finished(sweep(*small, "--variants", "=Q8_0", "--keep", "none", "--workspace", tmp_path))
    assert {record["status"] for record in records.values()} == {"ok"}
    assert not [*tmp_path.rglob("*.gguf"), *tmp_path.rglob("*.logprobs")]


def test_hub_files_and_split_files_are_variants(small: list[str | Path], tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "parts").mkdir(parents=True)
    plans = export(
        open_source(MICRO.directory, "micro"), {"Q8_0": repository / "parts/m-Q8_0.gguf"}, max_part_bytes=2_000_000
    )
    names = [path.name for path in plans["Q8_0"].paths(repository / "parts/m-Q8_0.gguf")]
    assert len(names) > 2
    remote, local = f"hub:org/quants/parts/{names[0]}", f"gguf:{repository / 'parts' / names[1]}"
    with serve({"org/quants": repository}) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        arguments = [*small, "--variants", f"={remote},{local},Q8_0", "--workspace", tmp_path / "w"]
        dry = json.loads(sweep_with(*arguments, "--dry-run", **environment).stdout)
        assert [entry["variant"] for entry in dry["variants"]] == [
            "BF16", f"hub:{names[0]}", f"gguf:{names[0]}", "Q8_0"
        ]  # fmt: skip
        assert [entry["file_bytes"] for entry in dry["variants"][1:3]] == 2 * [plans["Q8_0"].file_bytes]
        assert not [request for request in hub.requests if request.startswith("GET") and "resolve" in request]
        records = finished(sweep_with(*arguments, **environment))
        absent = sweep_with(
            *small, "--variants", "=hub:org/quants/absent.gguf", "--workspace", tmp_path / "w", **environment
        )
    sizes = {name: record["file_bytes"] for name, record in records.items()}
    assert sizes[f"hub:{names[0]}"] == sizes[f"gguf:{names[0]}"] == plans["Q8_0"].file_bytes
    for name in (f"hub:{names[0]}", f"gguf:{names[0]}"):
        assert records[name]["divergence"] == records["Q8_0"]["divergence"]
        assert records[name]["bits_per_weight"] == records["Q8_0"]["bits_per_weight"]
    assert absent.returncode == 2
    assert len(absent.stderr.splitlines()) == 1
    assert "org/quants: the repository has no such file" in absent.stderr


def test_models_that_are_not_downloaded_can_be_planned(tmp_path: Path) -> None:
    plan = json.loads(sweep("Qwen3-30B-A3B", "--dry-run", "--format", "json", "--workspace", tmp_path).stdout)
    sizes = {entry["variant"]: entry for entry in plan["variants"]}
    assert sizes["BF16"]["tensor_bytes"] > 2 * 30e9
    assert sizes["BF16"]["memory_bytes"] > sizes["Q2_K"]["memory_bytes"] > sizes["Q2_K"]["tensor_bytes"]
    assert not sizes["Q2_K"]["header_exact"]
    (tmp_path / "config.json").write_bytes((MICRO.directory / "config.json").read_bytes())
    arguments = ("--dry-run", "--format", "json", "--workspace", tmp_path / "w")
    bare, whole = (json.loads(sweep(model, *arguments).stdout) for model in (tmp_path / "config.json", "micro"))
    for one, other in zip(bare["variants"], whole["variants"], strict=True):
        assert (one["tensor_bytes"], one["memory_bytes"]) == (other["tensor_bytes"], other["memory_bytes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("micro", "--variants", "=IQ2_XXS"), "IQ2_XXS needs an importance matrix; give one by --imatrix FILE, or"),
        (("micro", "--imatrix", "/no/such"), "/no/such: there is no such importance matrix"),
        (("micro", "--variants", "=hub:nonsense"), "hub:ORG/NAME/FILE.gguf"),
        (("micro", "--variants", "=hub:org/name/../x.gguf"), "hub:ORG/NAME/FILE.gguf"),
        (("Qwen3-30B-A3B",), "only the sizes of this model are known (for sweep fit and --dry-run)"),
        (("micro", "--keep", "some"), "'some'"),
    ],
)
def test_bad_input_gives_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = sweep(*arguments, "--workspace", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
