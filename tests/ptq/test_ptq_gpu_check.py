"""The check of post-training quantization on a GPU runs on tiny shapes without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ptq.recipe import recipe

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks/ptq_gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_check_covers_every_method_and_finds_that_the_cpu_equals_itself() -> None:
    done = run("--tiny")
    assert done.returncode == 0, done.stderr + done.stdout
    _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {recipe(row[0]).rounding for row in rows} == {"rtn", "gptq", "hqq", "billm"}
    assert [row[1] for row in rows] == ["0.00%"] * len(rows)
    assert all(float(second) > 0 for row in rows for second in row[4:])
    assert "Failed" not in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so it would run")
def test_without_a_gpu_it_ends_with_exit_code_4() -> None:
    done = run()
    assert done.returncode == 4
    assert "there is no NVIDIA GPU" in done.stderr
