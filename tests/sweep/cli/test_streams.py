"""Commands write to whatever their standard streams are connected to, and end properly if they cannot."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from command_line import COMMAND
from stored_runs import Stored, items

from sweep.cli.streams import PLAIN_SIGNS, with_plain_signs
from sweep.results.history import past_runs
from sweep.workspace import Workspace

ROOT = Path(__file__).parents[3]
NOT_PRINTED = {"Ġ"}  # in vocabularies


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a run of two variants."""
    space = Workspace(tmp_path_factory.mktemp("w"))
    nll = np.arange(8.0)
    Stored(
        "stored-run",
        tasks={"acc": {"BF16": items([1, 1, 0, 1] * 8), "Q2": items([0, 1, 0, 1] * 8)}},
        text={"BF16": (nll, None), "Q2": (nll + 0.5, nll / 10)},
        variants=("BF16", "Q2"),
    ).put(space)
    return space


def run(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, *map(str, arguments)]
    options = {"stderr": subprocess.PIPE, "text": True, "timeout": 120, **more}
    return subprocess.run(words, **options)


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which "$@" is the command."""
    words = ["bash", "-c", line, "bash", *COMMAND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_every_sign_that_is_printed_has_a_plain_one() -> None:
    files = [*(ROOT / "sweep").rglob("*.py"), *(ROOT / "presets").rglob("*.toml"), ROOT / "converters/mixes.toml"]
    found = {
        character
        for file in files
        for text in (_strings(file) if file.suffix == ".py" else [file.read_text(encoding="utf-8")])
        for character in text
        if not character.isascii()
    }
    assert "±" in found
    assert found - NOT_PRINTED <= {*PLAIN_SIGNS, "±"}


def _strings(file: Path) -> list[str]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_plain_signs_leave_columns_where_they_are() -> None:
    assert with_plain_signs("▲ x ±0.5  y ± z", "ascii") == "^ x +-0.5 y +- z"
    assert with_plain_signs("✓ ±0.5  y", "latin-1") == "+ ±0.5  y"
    assert with_plain_signs("✓ ±0.5  y", "utf-8") == "✓ ±0.5  y"
    assert {len(sign) for sign in PLAIN_SIGNS.values()} == {1}


@pytest.mark.parametrize(
    ("encoding", "arguments"),
    [
        ("ascii", ("report",)),
        ("latin-1", ("report",)),
        ("ascii", ("compare", "stored-run:BF16", "stored-run:Q2")),
        ("ascii", ("fit", "micro", "--variants", "Q4_K_M", "--explain")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_output_in_an_encoding_without_signs_has_plain_ones(
    workspace: Workspace, encoding: str, arguments: tuple[str, ...]
) -> None:
    where = () if arguments[0] == "fit" else ("--workspace", workspace.root)
    plain, usual = (
        run(*arguments, *where, stdout=subprocess.PIPE, encoding=name, env=os.environ | {"PYTHONIOENCODING": name})
        for name in (encoding, "utf-8")
    )
    assert plain.stderr == with_plain_signs(usual.stderr, encoding)
    assert plain.returncode == usual.returncode == 0
    if arguments[0] != "fit":  # memory changes from one moment to the next
        assert plain.stdout == with_plain_signs(usual.stdout, encoding)
    assert "\\" not in plain.stdout


def test_a_name_that_the_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    ended = run("fit", tmp_path / "größe", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert ended.returncode == 2
    assert "gr\\xf6\\xdfe" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("gpus",), ("gpus", "--format", "json"), ("--help",)], ids=" ".join)
def test_a_closed_stream_is_nothing_to_write_to(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = shell('"$@" >&-', *arguments)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    ended = shell('"$@" <&- >&- 2>&-', *arguments)
    assert ended.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
@pytest.mark.parametrize(
    "arguments",
    [("gpus",), ("gpus", "--format", "json"), ("report", "--json"), ("--help",), ("--version",)],
    ids=" ".join,
)
def test_a_full_disk_is_said_of_the_stream(workspace: Workspace, arguments: tuple[str, ...]) -> None:
    where = ("--workspace", workspace.root) if arguments[0] == "report" else ()
    with open("/dev/full", "w") as full:
        ended = run(*arguments, *where, stdout=full)
    assert (ended.returncode, ended.stderr) == (2, "sweep: standard output: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_an_error_that_cannot_be_printed_leaves_its_exit_code() -> None:
    with open("/dev/full", "w") as full:
        assert run("fit", "no-such-model", stdout=subprocess.PIPE, stderr=full).returncode == 2


@pytest.mark.parametrize("arguments", [("gpus",), ("gpus", "--format", "json"), ("--help",)], ids=" ".join)
def test_a_reader_that_has_ended_ends_the_command_by_sigpipe(arguments: tuple[str, ...]) -> None:
    ended = shell('"$@" | true; exit ${PIPESTATUS[0]}', *arguments)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_a_run_whose_reader_ends_leaves_no_worker_and_can_be_resumed(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "presets/micro/text/test.txt").read_text()[:4000])
    arguments = ("run", "micro", "--variants", "=Q2_K", "--tasks", "none", "--perplexity", text, "--window", 64)
    words = [*COMMAND, *map(str, arguments), "--workspace", str(tmp_path / "w"), "--format", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while '"cell_done"' not in process.stdout.readline():
            pass
        end = time.monotonic() + 60
        while not (workers := psutil.Process(process.pid).children()):  # the next job's worker may not have started yet
            assert time.monotonic() < end
            time.sleep(0.01)
        process.stdout.close()
        assert process.wait(60) == -signal.SIGPIPE
        assert process.stderr.read() == ""
    assert not any(worker.is_running() for worker in workers)
    (stored,) = past_runs(Workspace(tmp_path / "w"))
    assert stored.done >= 1
    assert stored.failed == 0


def test_a_worker_prints_any_text_in_every_locale(tmp_path: Path) -> None:
    """Libraries print what they like; in a worker that must not fail a job."""
    code = (
        "import sys\n"
        "from sweep.own_code import child_environment\n"
        "import subprocess\n"
        "child = [sys.executable, '-c', 'print(chr(0x2713), chr(0xdcff))']\n"
        "sys.exit(subprocess.run(child, env=child_environment(), stdout=subprocess.DEVNULL).returncode)"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path).returncode == 0
