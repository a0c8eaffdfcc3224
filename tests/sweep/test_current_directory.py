"""No command runs code of the current directory, which may be a downloaded repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from traps import imported, lay_traps

from sweep.commands.launch import Command, Launch, planned
from sweep.own_code import SAFE_PYTHON, hidden_package
from sweep.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with Python files of its own. Each writes its name to ../imported when it is imported."""
    directory = tmp_path_factory.mktemp("repository") / "model"
    shutil.copytree(ROOT / "presets/micro/model", directory)
    lay_traps(directory)
    text = (ROOT / "presets/micro/text/test.txt").read_text()[:12_000]
    (directory.parent / "text.txt").write_text(text)
    return directory


QUICK = ("--tasks", "none", "--perplexity", "../text.txt", "--window", "64", "--workspace", "../workspace")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", ".", "--variants", "=Q2_K", *QUICK),
        ("convert", ".", "--to", "Q2_K", "--out", "../out"),
        ("fit", ".", "--variants", "Q2_K"),
        ("doctor", "--workspace", "../workspace"),
        pytest.param(("eval", ".", "--quant", "Q2_K", *QUICK), marks=pytest.mark.slow),
        pytest.param(
            ("int8", ".", "--recipe", "w8a8-dyn", "--out", "../int8", "--workspace", "../workspace"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("ablate", ".", "--design-space", "../space.toml", "--perplexity", "../text.txt", "--windows", "2",
             "--window", "64", "--calibration", "../text.txt", "--samples", "4", "--length", "64",
             "--workspace", "../workspace"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)  # fmt: skip
def test_a_command_in_a_directory_with_python_files_runs_none_of_them(
    trapped: Path, arguments: tuple[str, ...]
) -> None:
    shutil.copy(ROOT / "tests/sweep/earlier/space.toml", trapped.parent / "space.toml")
    command = [*SAFE_PYTHON, "-c", "from sweep.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=trapped, env=_environment(), capture_output=True, text=True)
    assert imported(trapped) == ""
    assert done.returncode == 0, done.stderr


def test_a_plan_that_the_screen_asks_for_runs_none_of_them(trapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = Command(("run", ".", "--variants", "=Q2_K", *QUICK[:-2]), str(trapped))
    assert planned(command, Workspace(trapped.parent / "screen"))["cells"]
    assert imported(trapped) == ""


@pytest.mark.slow
def test_a_sweep_that_the_screen_starts_runs_none_of_them(trapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = Command(("run", ".", "--variants", "=Q2_K", *QUICK[:-2]), str(trapped))
    launch = Launch(command, Workspace(trapped.parent / "screen"))
    assert os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1]) == 0
    assert launch.run()
    assert imported(trapped) == ""


@pytest.mark.parametrize("name", ["presets", "tui"])
def test_a_package_that_hides_one_of_ours_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    environment = _environment(tmp_path)
    command = [*SAFE_PYTHON, "-c", "from sweep.cli import main; main()", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr.startswith(f"sweep: the Python package {name!r} comes from {tmp_path / name}, not from bitsweep")
    assert done.stderr.count("\n") == 1


def test_our_own_packages_are_found() -> None:
    assert hidden_package() is None


def _environment(*first: Path) -> dict[str, str]:
    """This process's, with absolute paths alone to look for modules."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*first, ROOT)))}
