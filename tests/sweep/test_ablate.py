"""`sweep ablate`: each recipe has the figures of its int8 checkpoint, and none is measured twice after an interrupt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import exp
from pathlib import Path
from statistics import fmean

import pytest
import torch
from command_line import COMMAND, call
from transformers import AutoTokenizer

import presets
from converters.errors import InputError
from int8.quantize_model import CalibrationText, quantize_model
from int8.recipe import NAMED, Recipe
from sweep.analysis.ablation import Ablation
from sweep.backends.torch import TorchBackend
from sweep.commands.ablate import AblationRequest, ablate, prepare
from sweep.events import Event
from sweep.measure.perplexity import cut_windows
from sweep.measure.text_measurement import measure_text

MICRO = presets.builtin_models()["micro"]
SPACE = """
version = 1
title = "small"
[axes.folds.values]
none = { folds = [] }
all = { folds = ["norm->qkv", "norm->gate/up", "up->down", "v->o"] }
[axes.activations]
values = ["static", "dynamic"]
[[grids]]
base = "sq-ph"
rows = "folds"
columns = "activations"
"""
OPTIONS = {"windows": 2, "window": 128, "samples": 4, "length": 64, "dtype": "float32", "device": "cpu"}


def make_request(directory: Path, **changes: object) -> AblationRequest:
    space, texts = directory / "space.toml", _texts(directory)
    if not space.exists():
        space.write_text(SPACE)
    request = AblationRequest("micro", space, workspace=directory / "workspace", **texts, **OPTIONS)  # type: ignore[arg-type]
    return replace(request, **changes)  # type: ignore[arg-type]


def _texts(directory: Path) -> dict[str, object]:
    """The beginnings of micro's texts, because reading all of them takes longer than measuring."""
    files = {"calibration": MICRO.calibration, "perplexity": MICRO.text}
    for name, file in files.items():
        if not (directory / name).exists():
            (directory / name).write_text(file.read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    return {"calibration": str(directory / "calibration"), "perplexity": directory / "perplexity"}


def run(request: AblationRequest) -> tuple[Ablation, list[Recipe]]:
    """The result, and the recipes that were measured for it."""
    measured: list[Recipe] = []
    found, _ = run_ablation(request, measured.append)
    return found, measured


def run_ablation(request: AblationRequest, measured: Callable[[Recipe], None]) -> tuple[Ablation, Path]:
    """`measured` is called with each recipe that is measured."""
    plan = prepare(request, lambda _: None)
    recipes = {cell.label: plan.recipes[cell.key] for cell in plan.cells if cell.key in plan.recipes}

    def hear(event: Event) -> None:
        if event.event in ("cell_done", "cell_failed") and event.cell in recipes:
            measured(recipes[event.cell])

    return ablate(plan, hear)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ablation]:
    directory = tmp_path_factory.mktemp("ablation")
    found, measured = run(make_request(directory))
    assert len(measured) == len(found.points) == 4
    return directory, found


def test_a_recipe_has_the_figures_of_its_int8_checkpoint(done: tuple[Path, Ablation]) -> None:
    """Without folds, its own calibration has identical ranges; with folds, they differ only by rounding."""
    directory, found = done
    text = (directory / "perplexity").read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(MICRO.directory)
    read = CalibrationText("own", lambda _: (directory / "calibration").read_text(encoding="utf-8"))
    float_one = TorchBackend.open(MICRO.directory, dtype="float32")
    windows = cut_windows(float_one, text, n_ctx=128, max_windows=2)
    reference = measure_text(float_one, windows).perplexity
    assert found.reference.value == pytest.approx(reference.value, rel=1e-6)
    for point in found.points:
        model, _ = quantize_model(MICRO.directory, point.recipe, read, count=4, length=64, dtype="float32")
        own = measure_text(TorchBackend(model, tokenizer), windows).perplexity
        assert point.measured.perplexity.value == pytest.approx(own.value, rel=5e-3 if point.recipe.folds else 1e-9)
        assert point.loss.delta == pytest.approx(
            fmean(a - b for a, b in zip(point.measured.window_nll, reference.window_nll, strict=True)), abs=1e-6
        )
        assert point.measured.perplexity.value == pytest.approx(exp(fmean(point.measured.window_nll)), rel=1e-12)
        assert 0 < point.measured.kld_mean < 0.1


def test_a_second_ablation_measures_nothing(done: tuple[Path, Ablation]) -> None:
    again, measured = run(make_request(done[0]))
    assert measured == []
    assert again == done[1]


def test_another_design_space_measures_only_new_recipes(done: tuple[Path, Ablation]) -> None:
    larger = done[0] / "larger.toml"
    larger.write_text(SPACE.replace('values = ["static", "dynamic"]', 'values = ["static", "float"]'))
    found, measured = run(make_request(done[0], space=larger))
    assert {recipe.activations.value for recipe in measured} == {"float"}
    assert len(found.points) == 4


def test_stored_statistics_give_identical_figures(done: tuple[Path, Ablation]) -> None:
    """Results are deleted and statistics kept; then both are deleted."""
    directory, found = done
    kept = directory / "kept"
    shutil.copytree(directory / "workspace", kept, ignore=shutil.ignore_patterns("sweep.db*"))
    assert list(kept.rglob("channels-*.safetensors"))
    for workspace in (kept, directory / "empty"):
        again, measured = run(make_request(directory, workspace=workspace))
        assert len(measured) == 4
        assert [point.measured.window_nll for point in again.points] == [p.measured.window_nll for p in found.points]
        assert again == found


def test_an_interrupted_ablation_loses_only_the_running_recipe(tmp_path: Path) -> None:
    measured: list[Recipe] = []

    def stop_after_two(recipe: Recipe) -> None:
        measured.append(recipe)
        if len(measured) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ablation(make_request(tmp_path), stop_after_two)
    _, then = run(make_request(tmp_path))
    assert len(then) == 2
    assert not set(then) & set(measured)


def test_a_killed_ablation_resumes_from_the_command_line(tmp_path: Path) -> None:
    """SIGKILL after the first recipe; then a second start measures the others and writes JSON and page."""
    request = make_request(tmp_path)
    page = tmp_path / "page.html"
    options = [str(part) for key, value in OPTIONS.items() for part in (f"--{key}", value)]
    for name, value in (("design-space", request.space), ("workspace", request.workspace)):
        options += [f"--{name}", str(value)]
    options += ["--calibration", str(request.calibration), "--perplexity", str(request.perplexity)]
    command = [*COMMAND, "ablate", "micro", *options, "--format", "json", "--html", str(page)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert first["event"] == "point"
    again = call(*command[len(COMMAND) :])
    assert again.returncode == 0, again.stderr
    *points, finished = map(json.loads, again.stdout.splitlines())
    assert 1 <= len(points) <= 3
    assert first["recipe"] not in [point["recipe"] for point in points]
    losses = [point["ln_ratio"]["delta"] for point in finished["points"]]
    assert losses == sorted(losses)
    assert len(losses) == 4
    (grid,) = finished["grids"]
    assert sorted(number for row in grid["points"] for number in row) == [0, 1, 2, 3]
    assert page.read_text().count("<svg") == 3  # the legend, and two maps of the grid
    assert "small" in page.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": 1}, "--windows must be at least 2"),
        ({"model": "micra"}, "no such model"),
        ({"model": str(MICRO.directory / "config.json")}, "give the directory"),
        ({"calibration": "nothing"}, "there is no such text"),
        ({"samples": 100_000}, "too short for 100000 samples"),
        ({"window": 100_000}, "longer than the model's"),
        ({"perplexity": Path("/nowhere.txt")}, "there is no such text file"),
        ({"device": "toaster"}, "is not a device"),
    ],
)
def test_bad_input_gives_one_line_before_anything_is_measured(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    measured: list[Recipe] = []
    with pytest.raises(InputError, match=message) as error:
        run_ablation(make_request(tmp_path, **changes), measured.append)
    assert "\n" not in str(error.value)
    assert measured == []


def test_the_error_for_a_damaged_model_names_the_layer(tmp_path: Path) -> None:
    from int8.model import open_model

    model = open_model(MICRO.directory, "float32")
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(MICRO.directory).save_pretrained(tmp_path / "model")
    request = make_request(tmp_path, model=str(tmp_path / "model"), calibration="micro")
    with pytest.raises(InputError, match=r"layers\.1.*NaN"):
        run(request)


def test_a_page_that_cannot_be_written_is_an_error_before_any_work(tmp_path: Path) -> None:
    page = tmp_path / "nowhere" / "page.html"
    done = call("ablate", "micro", "--html", page)
    assert done.returncode == 2
    assert done.stderr == f"sweep: {page}: there is no such directory; choose another --html FILE\n"
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    done = call("ablate", "micro", "--html", mine)
    assert done.returncode == 2
    assert done.stderr.startswith(f"sweep: {mine}: a file with other content exists")
    assert mine.read_text() == "mine"


def test_help_loads_no_torch() -> None:
    code = "import sys\nfrom sweep.cli import app\nimport sweep.cli.ablate\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_the_base_recipe_is_one_of_the_points(done: tuple[Path, Ablation]) -> None:
    point = done[1].of(replace(NAMED["sq-ph"], name=""))
    assert point is not None
    assert point.recipe.alpha == 0.65
