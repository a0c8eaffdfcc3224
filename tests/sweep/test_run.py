"""`sweep run` with real measurements of the built-in model: results, resume, kill, follow and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, call
from cores import every_core

import presets
from sweep.workspace import Workspace
from tui.state.results import read_results

MICRO = presets.builtin_models()["micro"]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        assert self.events[-1]["event"] == "finished"
        return {record["variant"]: record for record in self.events[-1]["records"]}


def finished(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short text: the beginning of the test text."""
    file = tmp_path_factory.mktemp("text") / "short.txt"
    file.write_text(MICRO.text.read_text()[:12_000])
    return file


def small_sweep(text: Path, workspace: Path, *more: str) -> list[str]:
    """The arguments of a small sweep: three variants, two tasks."""
    arguments = ["run", "micro", "--variants", "=Q4_K_M,Q2_K", "--tasks", "micro_form,micro_facts", "--limit", "12"]
    return [*arguments, "--perplexity", str(text), "--workspace", str(workspace), "--format", "json", *more]


def begin(text: Path, workspace: Path, *more: str) -> subprocess.Popen[str]:
    """Start a small sweep as a user does, to be interrupted or followed."""
    command = [*COMMAND, *small_sweep(text, workspace, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def called(*arguments: str) -> Ended:
    """Run a command to its end in this process."""
    done = call(*arguments)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def start(text: Path) -> Callable[..., subprocess.Popen[str]]:
    return partial(begin, text)


@pytest.fixture
def swept(text: Path) -> Callable[..., Ended]:
    """Runs a small sweep to its end."""
    return lambda *where: called(*small_sweep(text, *where))


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A sweep that ran without interruption, and its workspace."""
    workspace = tmp_path_factory.mktemp("whole")
    return workspace, finished(begin(text, workspace))


def test_fit_the_run_and_the_screen_give_the_same_advice(undisturbed: tuple[Path, Ended]) -> None:
    workspace, ended = undisturbed
    told = ended.events[-1]["advice"]
    assert told["confidence"] == "cannot-tell"  # 12 items
    assert told["settle"]["items"] > 12
    assert told["settle"]["command"].startswith("sweep run micro --variants '=")
    assert told["settle"]["command"].endswith(f" --workspace {workspace}")
    shown = read_results(Workspace(workspace), None).choice
    assert shown is not None
    assert (shown.variant, shown.reason) == (told["variant"], told["reason"])
    variants = ("--variants", "BF16,Q4_K_M,Q2_K", "--workspace", str(workspace))
    fitted = json.loads(call("fit", "micro", *variants, "--format", "json").stdout)
    for field in ("variant", "kv_type", "ctx", "placement", "confidence", "settle"):
        assert fitted["advice"][field] == told[field], field
    assert fitted["advice"]["expected_kld"] == pytest.approx(told["expected_kld"])
    assert str(workspace) in fitted["advice"]["command"]
    assert fitted["advice"]["command"].split()[:3] == told["command"].split()[:3]
    assert {row["variant"]: row["expected_kld"]["source"] for row in fitted["rows"]} == dict.fromkeys(
        ("BF16", "Q4_K_M", "Q2_K"), "measured"
    )
    printed = call("report", "--workspace", str(workspace)).stdout
    assert f"► Run {told['variant']} (" in printed
    assert f"Run this:\n  {told['command']}\n" in printed
    page = (workspace / "runs" / ended.events[-1]["run"] / "report.html").read_text()
    assert "cannot tell yet" in page


def without_timings(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Records without the values that differ from run to run: speed, measured memory and number of threads."""
    return {
        name: {
            **record,
            "speed": None,
            "memory": {"predicted_bytes": record["memory"]["predicted_bytes"]},
            "settings": {**record["settings"], "threads": None},
        }
        for name, record in records.items()
    }


def files(workspace: Path) -> set[str]:
    return {file.name for file in (workspace / "artefacts").rglob("*") if file.is_file() and file.suffix != ".lock"}


def test_every_part_of_a_record_is_measured(undisturbed: tuple[Path, Ended]) -> None:
    _, result = undisturbed
    assert result.code == 0, result.err
    assert list(result.records) == ["BF16", "Q4_K_M", "Q2_K"]
    for name, record in result.records.items():
        assert record["status"] == "ok"
        assert record["error"] is None
        assert record["speed"]["prompt_tokens_per_s"] > 0
        assert record["speed"]["decode_tokens_per_s"] > 0
        assert record["perplexity"]["value"] > 1
        assert record["memory"]["predicted_bytes"] > record["file_bytes"] * 0.9
        assert record["memory"]["measured_bytes"] == record["memory"]["host_bytes"] > 0
        assert record["memory"]["device_bytes"] == 0
        assert set(record["tasks"]) == {"micro_form", "micro_facts"}
        assert all(score["n"] == 12 for score in record["tasks"].values())
        assert (record["divergence"] is None) == (name == "BF16")
        assert record["reference"] == "BF16"
    diverged = {name: record["divergence"] for name, record in result.records.items() if record["divergence"]}
    assert 0 < diverged["Q4_K_M"]["kld_mean"] < diverged["Q2_K"]["kld_mean"]
    assert diverged["Q4_K_M"]["noise_floor"] is not None
    sizes = [record["file_bytes"] for record in result.records.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_paired_differences_follow_from_the_items(undisturbed: tuple[Path, Ended]) -> None:
    _, result = undisturbed
    for task, score in result.records["Q2_K"]["tasks"].items():
        base = result.records["BF16"]["tasks"][task]
        assert base["delta"] is None
        assert score["delta"] == pytest.approx(score["value"] - base["value"])
        assert 0 <= score["p_value"] <= 1


def test_a_second_run_computes_nothing_and_has_the_same_records(
    undisturbed: tuple[Path, Ended], swept: Callable[..., Ended]
) -> None:
    workspace, first = undisturbed
    second = swept(workspace)
    assert second.code == 0
    assert second.records == first.records
    assert [event["event"] for event in second.events] == ["started", "finished"]
    assert second.events[0]["todo"] == 0


def test_runs_share_equal_results(undisturbed: tuple[Path, Ended], swept: Callable[..., Ended]) -> None:
    workspace, _ = undisturbed
    wider = swept(workspace, "--variants", "=Q4_K_M,Q2_K,Q8_0")
    assert {event["cell"].split("/")[0] for event in wider.events if event["event"] == "cell_started"} == {"Q8_0"}
    assert wider.events[0]["run"] != undisturbed[1].events[0]["run"]
    assert files(workspace) == {
        *(f"micro-{quant}.gguf" for quant in ("BF16", "Q4_K_M", "Q2_K", "Q8_0")),
        *(name for name in files(workspace) if name.endswith(".logprobs")),
    }


@pytest.mark.parametrize(
    "cell",
    [
        "BF16/export",
        pytest.param("BF16/text", marks=pytest.mark.slow),
        "Q4_K_M/micro_form",
        pytest.param("Q2_K/speed", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_gives_the_same_records_when_it_is_resumed(
    cell: str,
    undisturbed: tuple[Path, Ended],
    start: Callable[..., subprocess.Popen[str]],
    swept: Callable[..., Ended],
    tmp_path: Path,
) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "cell_started" and event["cell"] == cell:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = swept(tmp_path)
    assert again.code == 0, again.err
    assert without_timings(again.records) == without_timings(undisturbed[1].records)
    assert files(tmp_path) == {*(f"micro-{q}.gguf" for q in ("BF16", "Q4_K_M", "Q2_K")), *logprobs(tmp_path)}
    redone = {event["cell"] for event in again.events if event["event"] == "cell_done"}
    assert cell in redone
    if cell == "Q2_K/speed":
        assert not any(name.startswith("BF16") for name in redone)


def logprobs(workspace: Path) -> list[str]:
    return [file.name for file in workspace.rglob("reference-*.logprobs")]


def test_ctrl_c_ends_a_run_with_exit_code_130_and_no_partial_file(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("cell") == "BF16/text":
            break
    process.send_signal(signal.SIGINT)
    result = finished(process)
    assert result.code == 130
    assert result.err.strip() == "sweep: interrupted; run the same command again to resume"
    assert files(tmp_path) == {f"micro-{quant}.gguf" for quant in ("BF16", "Q4_K_M", "Q2_K")}


def test_a_second_process_follows_the_first(
    undisturbed: tuple[Path, Ended], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    with every_core():  # maybe more threads than the first sweep had: they change no figure
        first = start(tmp_path)
        assert first.stdout is not None
        line = first.stdout.readline()
        assert json.loads(line)["event"] == "started"
        follower = start(tmp_path)
    result, followed = finished(first), finished(follower)
    assert (result.code, followed.code) == (0, 0)
    assert followed.events[0]["event"] == "following"
    assert not {e["event"] for e in followed.events} & {"cell_failed"}
    assert followed.records == {r["variant"]: r for r in json.loads(result.out.splitlines()[-1])["records"]}
    assert without_timings(followed.records) == without_timings(undisturbed[1].records)


@pytest.mark.slow
def test_two_runs_in_one_workspace_do_not_disturb_each_other(
    undisturbed: tuple[Path, Ended], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    first, second = start(tmp_path), start(tmp_path, "--variants", "=Q4_K_M,Q8_0")
    one, other = finished(first), finished(second)
    assert (one.code, other.code) == (0, 0), one.err + other.err
    assert without_timings(one.records) == without_timings(undisturbed[1].records)
    assert without_timings(other.records)["Q4_K_M"] == without_timings(undisturbed[1].records)["Q4_K_M"]


def aborting_gguf(path: Path, workspace: Path) -> Path:
    """A GGUF file that loads, but aborts llama.cpp at the first graph: its rotary dimension is odd (GGML_ASSERT)."""
    from converters.llamacpp.container import encode_header, uint32
    from converters.llamacpp.reader import read_header

    (good,) = workspace.rglob("micro-Q4_K_M.gguf")
    header = read_header(good)
    fields = {**header.metadata, "qwen3.rope.dimension_count": uint32(63)}
    path.write_bytes(encode_header(fields, header.tensors) + good.read_bytes()[header.data_offset :])
    return path


def test_native_code_that_aborts_fails_only_its_cells(
    undisturbed: tuple[Path, Ended], swept: Callable[..., Ended], tmp_path: Path
) -> None:
    workspace, first = undisturbed
    broken = aborting_gguf(tmp_path / "broken.gguf", workspace)
    result = swept(workspace, "--variants", f"=gguf:{broken},Q4_K_M,Q2_K")
    assert result.code == 1
    record = result.records["gguf:broken.gguf"]
    assert record["status"] == "failed"
    assert "SIGABRT" in record["error"]
    assert "GGML_ASSERT" in record["error"]
    for name in ("BF16", "Q4_K_M", "Q2_K"):
        assert without_timings(result.records)[name] == without_timings(first.records)[name]


def test_runs_are_listed_and_reported(undisturbed: tuple[Path, Ended], tmp_path: Path) -> None:
    workspace, first = undisturbed
    run = first.events[0]["run"]

    def sweep(*arguments: str) -> Ended:
        return called(*arguments, "--workspace", str(workspace))

    listed = [json.loads(line) for line in sweep("runs", "--format", "json").out.splitlines()]
    assert run in [entry["run"] for entry in listed]
    page, table = tmp_path / "r.html", tmp_path / "r.csv"
    assert sweep("report", run, "--html", str(page), "--csv", str(table)).code == 0
    assert "Q4_K_M" in page.read_text()
    assert [line.split(",")[0] for line in table.read_text().splitlines()[1:]] == ["BF16", "Q4_K_M", "Q2_K"]
    assert sweep("report", run, "--csv", str(table)).code == 0  # the same content
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("mine\n")
    page.unlink()
    refused = sweep("report", run, "--html", str(page), "--csv", str(theirs))
    assert refused.code == 2
    assert refused.err.splitlines() == [
        f"sweep: {theirs}: a file with other content exists; choose another name, or replace it with --force"
    ]
    assert (theirs.read_text(), page.exists()) == ("mine\n", False)  # nothing is written
    assert sweep("report", run, "--csv", str(theirs), "--force").code == 0
    assert theirs.read_text() == table.read_text()
    shown = sweep("report", run, "--json")
    assert {json.loads(line)["variant"] for line in shown.out.splitlines()} == {"BF16", "Q4_K_M", "Q2_K"}
    unknown = sweep("report", "nonsense")
    assert unknown.code == 2
    assert "nonsense: no such run" in unknown.err


def test_predicted_sizes_are_the_sizes_of_the_files(
    undisturbed: tuple[Path, Ended], swept: Callable[..., Ended]
) -> None:
    workspace, first = undisturbed
    plan = swept(workspace, "--dry-run").events[0]
    for row in plan["variants"]:
        assert row["file_bytes"] == first.records[row["variant"]]["file_bytes"]
        assert row["bits_per_weight"] == pytest.approx(first.records[row["variant"]]["bits_per_weight"])
        assert row["memory_bytes"] == first.records[row["variant"]]["memory"]["predicted_bytes"]
    assert all(cell["done"] for cell in plan["cells"])


def test_a_dry_run_writes_only_the_workspace_folder(swept: Callable[..., Ended], tmp_path: Path) -> None:
    assert swept(tmp_path / "w", "--dry-run").code == 0
    assert not (tmp_path / "w" / "artefacts").exists()
    assert not (tmp_path / "w" / "runs").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_gives_one_line_and_no_partial_file(swept: Callable[..., Ended], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        result = swept(small)
        assert result.code == 2
        assert len(result.err.strip().splitlines()) == 1
        assert "bytes are needed" in result.err or "disk is full" in result.err
        assert files(small) == set()
    finally:
        time.sleep(0.2)
        subprocess.run(["umount", "-l", str(small)], check=True)
