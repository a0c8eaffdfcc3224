"""Real tasks with int8 and with fake-quant of the same recipe, paired by item as `sweep compare` does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from command_line import call

import presets
from sweep.analysis.compare import compare
from sweep.statistics import ALPHA
from sweep.workspace import Workspace

MICRO = presets.builtin_models()["micro"]
RECIPE = "sq"
TASKS = ("micro_form", "micro_sums")
ITEMS = 60

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any]]:
    """A sweep of the recipe with int8 and with fake-quant: its workspace and its last event."""
    workspace = tmp_path_factory.mktemp("workspace")
    calibration = tmp_path_factory.mktemp("text") / "calibration.txt"
    calibration.write_text(MICRO.calibration.read_text()[:10_000])
    text = calibration.with_name("text.txt")
    text.write_text(MICRO.text.read_text()[:3_000])
    variants, tasks = f"=int8:{RECIPE},fq:{RECIPE}", ",".join(TASKS)
    arguments = ["run", "micro", "--variants", variants, "--tasks", tasks, "--limit", ITEMS, "--window", 128]
    arguments += ["--perplexity", text, "--calibration", calibration, "--workspace", workspace, "--format", "json"]
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    return Workspace(workspace), json.loads(done.stdout.splitlines()[-1])


def test_no_task_differs_between_int8_and_fake_quant_by_more_than_its_paired_error(
    ran: tuple[Workspace, dict[str, Any]],
) -> None:
    workspace, finished = ran
    found = compare(workspace, f"{finished['run']}:fq:{RECIPE}", f"{finished['run']}:int8:{RECIPE}")
    assert [entry.task for entry in found.tasks] == list(TASKS)
    for entry in found.tasks:
        message = (
            f"{entry.task}: {entry.a:.3f} fake, {entry.b:.3f} real; difference {entry.difference.delta:+.4f} "
            f"± {entry.difference.stderr:.4f}, p {entry.p_holm:.2f}; flips {entry.flips:.1%}"
        )
        print(message)
        assert entry.only_a == entry.only_b == entry.reworded == 0, message
        assert entry.difference.n == ITEMS, message
        assert entry.p_holm >= ALPHA, message
        assert 0 < entry.b < 1, message  # a task in which all items or none fail would show nothing
