"""`--effort`: how much of tasks and texts is measured, and what decides it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import call

import presets
from converters.errors import InputError
from sweep.commands.prediction import effort_words, time_words
from sweep.commands.run import prepare
from sweep.jobs.speed import DepthJob, SpeedJob
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob, share_of_text
from sweep.measure.task_options import TaskOptions
from sweep.planning import preset
from sweep.planning.effort import Effort, extent_of
from sweep.planning.prepare import Sweep
from sweep.planning.request import Request
from sweep.planning.tasks import tasks_for

MICRO = presets.builtin_models()["micro"]


def planned(tmp_path: Path, **options: Any) -> Sweep:
    request = Request(variants="=Q4_K_M", tasks=("micro_form",), workspace=tmp_path / "w", dry_run=True)
    return prepare(replace(request, **options), lambda _: None)


def measured(sweep: Sweep) -> tuple[set[int | None], set[int | None]]:
    """The limits of the tasks, and the windows of the texts."""
    jobs = [cell.job for cell in sweep.plan.cells]
    limits = {job.task.options.limit for job in jobs if isinstance(job, TaskJob)}
    return limits, {job.windows for job in jobs if isinstance(job, TextJob)}


def test_a_level_sets_what_no_option_sets(tmp_path: Path) -> None:
    text = (tmp_path / "long.txt",)
    text[0].write_text(MICRO.text.read_text() * (1 + 200_000 // MICRO.text.stat().st_size))
    assert measured(planned(tmp_path, perplexity=text)) == ({None}, {None})
    quick = planned(tmp_path, perplexity=text, effort=Effort.QUICK)
    assert measured(quick) == ({50}, {64})  # 64 windows of 512 tokens
    assert effort_words(quick) == "Effort quick: tasks: first 50 items; text: the first 64 windows; speed: 4 s."
    assert measured(planned(tmp_path, perplexity=text, effort=Effort.QUICK, limit=7, window=256)) == ({7}, {128})
    normal, default = (planned(tmp_path, perplexity=text, effort=level).plan for level in (Effort.NORMAL, None))
    assert [cell.key for cell in normal.cells] == [cell.key for cell in default.cells]
    assert str(time_words(quick)).startswith("The time cannot be estimated")


def test_a_level_sets_the_time_for_speed_and_an_option_has_priority(tmp_path: Path) -> None:
    def seconds(**options: Any) -> set[float]:
        jobs = [cell.job for cell in planned(tmp_path, depth=(128,), **options).plan.cells]
        return {job.seconds for job in jobs if isinstance(job, SpeedJob | DepthJob)}

    assert seconds() == seconds(effort=Effort.NORMAL) == {10.0}
    assert seconds(effort=Effort.QUICK) == {4.0}
    assert seconds(effort=Effort.THOROUGH) == {30.0}
    assert seconds(effort=Effort.QUICK, speed_seconds=2.5) == {2.5}


def test_a_text_that_is_surely_short_enough_is_measured_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(MICRO.text.read_text()[:20_000])
    text = (tmp_path / "short.txt",)
    quick, normal = (planned(tmp_path, perplexity=text, effort=level).plan for level in (Effort.QUICK, None))
    assert {cell.key for cell in quick.cells if cell.name == "text"} == {
        cell.key for cell in normal.cells if cell.name == "text"
    }


def test_a_preset_can_name_a_level_and_its_own_limit_has_priority(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('reference = "BF16"\nvariants = ["BF16"]\neffort = "quick"\n')
    loaded = preset.load(str(file))
    assert loaded.effort is Effort.QUICK
    (tmp_path / "copy.toml").write_text(preset.as_toml(loaded))
    assert preset.load(str(tmp_path / "copy.toml")).effort is Effort.QUICK
    mine = {"preset": str(file), "variants": None}
    assert measured(planned(tmp_path, **mine))[0] == {50}
    assert measured(planned(tmp_path, **mine, effort=Effort.NORMAL))[0] == {None}
    file.write_text(file.read_text() + "limit = 9\n")
    assert measured(planned(tmp_path, **mine))[0] == {9}
    file.write_text('reference = "BF16"\nvariants = ["BF16"]\neffort = "fast"\n')
    with pytest.raises(InputError, match=r"mine\.toml: 'effort' must be quick, normal or thorough, not 'fast'"):
        preset.load(str(file))


def test_thorough_takes_all_items_where_tasks_have_a_default_limit(tmp_path: Path) -> None:
    options, model = TaskOptions(), planned(tmp_path).model
    assert {task.options.limit for task in tasks_for(model, ("quick",), options, None)} == {100}
    extent = extent_of(Effort.THOROUGH)
    assert {task.options.limit for task in tasks_for(model, ("quick",), options, None, extent.all_items)} == {None}
    other = replace(model, builtin=None)
    assert {task.options.limit for task in tasks_for(other, None, options, None)} == {presets.defaults()["limit"]}
    assert {task.options.limit for task in tasks_for(other, None, options, None, extent.all_items)} == {None}


def test_the_share_of_a_text_is_the_unit_of_its_time(tmp_path: Path) -> None:
    jobs = [cell.job for cell in planned(tmp_path, effort=Effort.QUICK).plan.cells if isinstance(cell.job, TextJob)]
    text = replace(jobs[0].text, bytes=1_000_000)
    assert share_of_text(text, 64, 512) == pytest.approx(64 * 512 * 4.2 / 1_000_000)
    assert share_of_text(text, None, 512) == share_of_text(replace(text, bytes=0), 64, 512) == 1.0
    assert replace(jobs[0], text=text, windows=64).work_units == 138
    assert replace(jobs[0], text=text, windows=None).work_units == 1000


def test_the_dry_run_says_what_the_level_means_and_how_long_it_takes(tmp_path: Path) -> None:
    arguments = ("run", "micro", "--variants", "=Q4_K_M", "--effort", "quick", "--workspace", tmp_path, "--dry-run")
    printed = call(*arguments).stdout
    assert "Effort quick: tasks: first 50 items; text: the first 64 windows; speed: 4 s." in printed
    assert "The time cannot be estimated before it starts" in printed
    assert call(*arguments[:5], "fast", *arguments[6:]).returncode == 2
