"""Without a GPU the GPU benchmark ends with a message; in Triton's interpreter its results are correct."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "benchmarks/int8_speed.py", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmark_ends_with_one_line_and_code_4():
    done = run()
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
    assert "no NVIDIA GPU" in done.stderr


@pytest.mark.slow
def test_in_the_interpreter_every_part_works_and_every_path_is_correct(tmp_path):
    pytest.importorskip("triton")
    out = tmp_path / "int8.md"
    done = run("--interpret", "--out", out)
    assert done.returncode == 0, done.stderr[-2000:]
    text = out.read_text()
    assert text.strip() == done.stdout.strip()
    assert "WRONG" not in text
    assert "Failed" not in text
    parts = text.split("\n## ")[1:]
    assert len(parts) == 8
    rows = {part.splitlines()[0].split(":")[0]: part.count("\n|") - 2 for part in parts}
    assert rows["Linear layers"] == 8
    assert rows["The dequantizers"] == 6
