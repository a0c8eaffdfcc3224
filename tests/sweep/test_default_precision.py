"""How much of a text a sweep plans to measure if no option says it, and what is stored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import presets
from sweep.commands.run import prepare
from sweep.jobs.cell import Cell
from sweep.jobs.task import TaskJob, TaskResult
from sweep.jobs.task_rounds import TaskRoundsJob
from sweep.jobs.text import TextJob, TextResult
from sweep.jobs.text_rounds import TextRoundsJob
from sweep.measure.text_results import PerplexityResult
from sweep.planning.effort import Effort
from sweep.planning.prepare import Sweep
from sweep.planning.request import Request
from sweep.results.store import Outcome, Store
from sweep.statistics.stopping import ALL_UNITS

MICRO = presets.builtin_models()["micro"]
PERPLEXITY = PerplexityResult(3.0, 0.1, 100, (1.0, 1.2), 2.9, 3.1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is not built in, as far as its name says."""
    return shutil.copytree(MICRO.directory, tmp_path_factory.mktemp("model") / "own", symlinks=False)


def planned(model: Path | str, workspace: Path, **options: Any) -> Sweep:
    request = Request(str(model), variants="=Q4_K_M", measure=("text",), perplexity=(MICRO.text,), workspace=workspace)
    return prepare(replace(request, **options), lambda _: None)


def texts(sweep: Sweep) -> list[Cell]:
    """The cells of the reference and the variant."""
    return [cell for cell in sweep.plan.cells if isinstance(cell.job, TextJob)]


def in_rounds(sweep: Sweep) -> set[bool]:
    return {isinstance(cell.job, TextRoundsJob) for cell in texts(sweep)}


def test_a_model_that_is_not_built_in_is_measured_until_enough_is_known(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text('reference = "BF16"\nvariants = ["BF16"]\nprecision = "2%"\n')
    for model, options, expected in (
        ("micro", {}, "full (the default of built-in models)"),
        (checkpoint, {}, "5% (default)"),
        (checkpoint, {"effort": Effort.THOROUGH}, "full"),
        (checkpoint, {"effort": Effort.THOROUGH, "precision": "decide"}, "decide"),
        (checkpoint, {"preset": str(tmp_path / "two.toml")}, "2%"),
        (checkpoint, {"preset": str(tmp_path / "two.toml"), "precision": "full"}, "full"),
    ):
        sweep = planned(model, tmp_path / "w", **options)
        assert str(sweep.precision) == expected
        assert in_rounds(sweep) == {not sweep.precision.is_full}


def test_tasks_end_early_unless_everything_is_measured_or_stored(checkpoint: Path, tmp_path: Path) -> None:
    def tasks(precision: str | None) -> list[Cell]:
        """The cells of the reference and the variant."""
        options: dict[str, Any] = {"precision": precision, "measure": ("text", "tasks"), "tasks": ("micro_form",)}
        sweep = planned(checkpoint, tmp_path / "w", **options)
        return [cell for cell in sweep.plan.cells if isinstance(cell.job, TaskJob)]

    def in_rounds(precision: str | None) -> list[bool]:
        return [isinstance(cell.job, TaskRoundsJob) for cell in tasks(precision)]

    assert [in_rounds(one) for one in (None, "decide", "full")] == [[False, True], [False, True], [False, False]]
    with Store(tmp_path / "w" / "sweep.db") as store:
        result = TaskResult("acc", 0.5, 0.1, True, 100, 0.25)
        store.put(tasks("full")[1].key, Outcome.of(result, 1.0))
    assert in_rounds(None) == [False, False]


def test_by_default_results_of_whole_texts_are_used(checkpoint: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    full = planned(checkpoint, workspace, precision="full")
    reference, variant = texts(full)
    distributions = reference.job.output
    assert distributions is not None
    with Store(full.workspace.database) as store:
        store.put(reference.key, Outcome.of(TextResult(PERPLEXITY), 1.0))
        assert in_rounds(planned(checkpoint, workspace)) == {True}  # the variant needs its distributions
        file = distributions.under(workspace)
        file.parent.mkdir(parents=True)
        file.touch()
        again = planned(checkpoint, workspace)
        assert again.plan.run == full.plan.run
        assert str(again.precision) == "full (the default, because the reference is stored in full)"
        assert in_rounds(planned(checkpoint, workspace, precision="5%")) == {True}
        file.unlink()
        store.put(variant.key, Outcome.of(TextResult(PERPLEXITY), 1.0))
        assert planned(checkpoint, workspace).plan.run == full.plan.run  # nothing is left to do


def test_a_sweep_that_measures_everything_goes_on_from_stored_rounds(checkpoint: Path, tmp_path: Path) -> None:
    workspace, other = tmp_path / "w", tmp_path / "other.txt"
    other.write_bytes(MICRO.text.read_bytes()[:20_000])
    sweep = planned(checkpoint, workspace)
    first = texts(sweep)[0].job
    with Store(sweep.workspace.database):
        pass  # it exists now
    assert isinstance(first, TextRoundsJob)
    assert first.positions is not None
    first.positions.under(workspace).mkdir(parents=True)
    full = planned(checkpoint, workspace, precision="full", perplexity=(MICRO.text, other))
    jobs = {cell.label: cell.job for cell in texts(full)}
    rules = {label: job.rule for label, job in jobs.items() if isinstance(job, TextRoundsJob)}
    assert rules == {"BF16/text": None, "Q4_K_M/text": ALL_UNITS}
    assert {"BF16/text other.txt", "Q4_K_M/text other.txt"} <= set(jobs)
    assert full.precision.is_full
