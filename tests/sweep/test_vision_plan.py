"""Plans of vision models: projector files as cells and in variants' names, and what results depend on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vision_models import make_vision_model

from converters.errors import InputError
from converters.export import export
from converters.projector_source import ProjectorSource
from converters.resolver import open_source
from images.preprocessing import read_preprocessing
from sweep.analysis.run_commands import run_commands
from sweep.artefact import Artefact
from sweep.commands.run import _made_only_for
from sweep.jobs.base import Site
from sweep.jobs.image_divergence import ImageDivergenceJob
from sweep.jobs.model import MeasurementJob, ModelSize
from sweep.jobs.projector import ProjectorJob
from sweep.jobs.settings import ComputeResources
from sweep.methods.registry import parse, parse_list
from sweep.planning.prepare import Sweep, prepare, projector_sizes
from sweep.planning.request import Request
from sweep.results.estimate import bytes_to_make
from sweep.results.plan import Plan
from sweep.workspace import Workspace

TASKS = {"look": "doc_to_image: [picture]\n", "read": ""}


class OneThread:
    """A host on which no job has to run while a plan is made."""

    def resources(self, engines: Collection[str]) -> ComputeResources:
        return ComputeResources(1, dict.fromkeys(engines, "cpu"))

    def run_job(self, job: object, *_: object) -> Any:
        raise AssertionError(f"{job} was to run")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision model's checkpoint, with its text model and projector as GGUF files in the folder `gguf`."""
    directory = tmp_path_factory.mktemp("vision") / "look3"
    make_vision_model("qwen3vl", directory)
    (directory / "gguf").mkdir()
    export(open_source(directory), {"BF16": directory / "gguf" / "text.gguf"})
    export(ProjectorSource(open_source(directory)), {"F16": directory / "gguf" / "mmproj-text.gguf"})
    return directory


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, str]:
    """By name, the path of a task's file: `look` has images, `read` has none."""
    for name, more in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{more}")
    (tmp_path / "some.txt").write_text("some words " * 100)
    return {name: str(tmp_path / f"{name}.yaml") for name in TASKS}


def planned(model: Path | str, tasks: tuple[str, ...], variants: str, workspace: Path, **options: object) -> Plan:
    return prepared(model, tasks, variants, workspace, **options).plan


def prepared(model: Path | str, tasks: tuple[str, ...], variants: str, workspace: Path, **options: object) -> Sweep:
    text = (Path(tasks[0]).with_name("some.txt"),) if tasks else ()
    request = Request(
        model=str(model), variants=variants, tasks=tasks or ("none",), perplexity=text, workspace=workspace / "w",
        window=64,
    )  # fmt: skip
    return prepare(replace(request, **options), print, OneThread())  # type: ignore[arg-type]


def keys(plan: Plan) -> dict[str, str]:
    return {cell.label: cell.key for cell in plan.cells}


def test_a_task_with_images_needs_a_projector_file_that_text_measurements_do_not_depend_on(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    both = (tasks["look"], tasks["read"])
    full = "full"  # otherwise the keys depend on how many variants and tasks there are
    text = keys(planned(model, (tasks["read"],), "=Q8_0", tmp_path, precision=full))
    plan = planned(model, both, "=Q8_0,Q8_0+mmproj=q8_0,Q8_0+mmproj=F16", tmp_path, precision=full)
    found, variants = keys(plan), ("BF16", "Q8_0", "Q8_0+mmproj=Q8_0")
    assert plan.variants == variants  # F16 is the default
    assert text.items() <= found.items()  # stored results of text stay valid
    assert set(found) - set(text) == {
        *(f"{name}/{cell}" for name in variants for cell in ("projector", "look", "look KLD")),
        *(f"{variants[2]}/{name}" for name in ("speed", "text", "read")),
    }
    for name in ("speed", "text", "read"):
        assert found[f"Q8_0/{name}"] == found[f"{variants[2]}/{name}"]
    assert found["BF16/projector"] == found["Q8_0/projector"] != found[f"{variants[2]}/projector"]
    assert found["Q8_0/look"] != found[f"{variants[2]}/look"]
    jobs = {cell.label: cell.job for cell in plan.cells}
    for cell in plan.cells:
        projector = found[f"{cell.variant}/projector"]
        with_images = cell.name in ("look", "look KLD")
        assert (projector in cell.needs) == with_images
        if isinstance(cell.job, MeasurementJob):
            assert (cell.job.model.images is not None) == with_images
    made = jobs[f"{variants[2]}/projector"]
    assert isinstance(made, ProjectorJob)
    assert made.file.name.endswith("/mmproj-look3-Q8_0.gguf")
    answers = {cell.variant: cell for cell in plan.cells if isinstance(cell.job, ImageDivergenceJob)}
    first = answers.pop("BF16")
    assert first.output is not None
    for cell in answers.values():
        assert (cell.job.reference, cell.output) == (first.output, None)  # type: ignore[attr-defined]
        assert cell.optional_needs == (first.key,)


def test_limits_of_pixels_change_what_has_images_and_the_size_of_the_cache_changes_nothing(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    both = (tasks["look"], tasks["read"])
    before = keys(planned(model, both, "=Q8_0", tmp_path))
    assert before == keys(planned(model, both, "=Q8_0", tmp_path, image_cache=0))
    after = keys(planned(model, both, "=Q8_0", tmp_path, max_pixels=20_000))
    changed = {label for label in before if before[label] != after[label]}
    assert changed == {f"{name}/{cell}" for name in ("BF16", "Q8_0") for cell in ("look", "look KLD")}
    with pytest.raises(InputError, match="at least 50,000 and at most 20,000 pixels"):
        planned(model, both, "=Q8_0", tmp_path, min_pixels=50_000, max_pixels=20_000)


def test_the_normalization_of_images_is_part_of_the_projector_and_of_tasks_with_images(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    other = shutil.copytree(model, tmp_path / "look3")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.4, 0.5, 0.6]}))
    before, after = (keys(planned(path, (tasks["look"],), "=Q8_0", tmp_path)) for path in (model, other))
    changed = {label for label in before if before[label] != after[label]}
    assert changed == {f"{name}/{cell}" for name in ("BF16", "Q8_0") for cell in ("projector", "look", "look KLD")}


def test_gguf_files_take_images_with_the_projector_next_to_them_or_a_named_one(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    file, look = model / "gguf" / "text.gguf", (tasks["look"],)
    plan = planned(file, look, f"=gguf:{file}", tmp_path, reference=f"gguf:{file}")
    (job,) = (cell.job for cell in plan.cells if isinstance(cell.job, ProjectorJob))
    assert (job.file.name, job.output) == (str(model / "gguf" / "mmproj-text.gguf"), None)
    own = next(cell.job.model for cell in plan.cells if cell.name == "look" and isinstance(cell.job, MeasurementJob))
    assert own.images is not None
    pixels = own.images.settings.preprocessing  # a projector file has no limits of pixels: the published ones
    checkpoint = read_preprocessing(model)
    assert pixels == replace(checkpoint, min_pixels=65_536, max_pixels=16_777_216)

    moved = shutil.copy(file, tmp_path / "alone.gguf")
    with pytest.raises(InputError, match=r"gguf:alone\.gguf: this model reads images only with its projector file"):
        planned(moved, look, f"=gguf:{moved}", tmp_path, reference=f"gguf:{moved}")
    named = f"gguf:{moved}+mmproj={model / 'gguf' / 'mmproj-text.gguf'}"
    plan = planned(moved, look, f"={named}", tmp_path, reference=named)
    assert plan.variants == ("gguf:alone.gguf+mmproj=mmproj-text.gguf",)
    with pytest.raises(InputError, match="no Q8_0 projector file can be made, because the model is a GGUF file"):
        planned(moved, look, f"=gguf:{moved}+mmproj=Q8_0,{named}", tmp_path, reference=named)
    # next to a checkpoint, its own projector file is made
    plan = planned(model, look, f"=gguf:{moved}", tmp_path)
    assert keys(plan)["gguf:alone.gguf/projector"] == keys(plan)["BF16/projector"]


def test_a_projector_of_another_model_is_rejected_before_any_work(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    other, look = tmp_path / "other", (tasks["look"],)
    make_vision_model("qwen2vl", other)
    export(ProjectorSource(open_source(other)), {"F16": other / "mmproj.gguf"})
    for base in ("Q8_0", f"gguf:{model / 'gguf' / 'text.gguf'}"):
        with pytest.raises(InputError, match=r"is a projector of kind 'qwen2\.5vl_merger'; .* needs 'qwen3vl_merger'"):
            planned(model, look, f"={base}+mmproj={other / 'mmproj.gguf'}", tmp_path)
    settings = json.loads((model / "preprocessor_config.json").read_text())
    brighter = shutil.copytree(model, tmp_path / "brighter")
    (brighter / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.1, 0.2, 0.3]}))
    with pytest.raises(InputError, match=r"the mean of pixels is \(0\.5, 0\.5, 0\.5\), but \(0\.1, 0\.2, 0\.3\)"):
        planned(brighter, look, f"=Q8_0+mmproj={model / 'gguf' / 'mmproj-text.gguf'}", tmp_path)


def test_what_is_only_for_images_is_rejected_without_a_task_that_has_some(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    read = (tasks["read"],)
    with pytest.raises(InputError, match=r"Q8_0\+mmproj=Q8_0: no task of this sweep has images, .* write Q8_0, or"):
        planned(model, read, "=Q8_0+mmproj=Q8_0", tmp_path)
    with pytest.raises(InputError, match="--max-pixels is for tasks with images, but micro is a text model"):
        planned("micro", read, "=Q8_0", tmp_path, max_pixels=1000)
    with pytest.raises(InputError, match="task look: its questions have images, but micro is a text model"):
        planned("micro", (tasks["look"],), "=Q8_0", tmp_path)


def test_the_predicted_size_of_a_projector_file_is_that_of_the_file(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    own = model / "gguf" / "mmproj-text.gguf"
    sweep = prepared(model, (tasks["look"],), f"=Q8_0,Q8_0+mmproj=Q8_0,Q4_0+mmproj={own}", tmp_path)
    host = OneThread()
    host.run_job = lambda job: job.run(Site(tmp_path))
    sizes = projector_sizes(sweep, host)
    by_variant = {cell.variant: sizes[cell.key] for cell in sweep.plan.cells if cell.key in sizes}
    measured = ProjectorJob("own", "own", "own", Artefact.of(own), "", "").run(Site(tmp_path))
    assert by_variant["Q4_0+mmproj=mmproj-text.gguf"] == measured
    assert by_variant["BF16"] == by_variant["Q8_0"] == measured  # F16, which is not made yet
    export(ProjectorSource(open_source(model)), {"Q8_0": tmp_path / "mmproj.gguf"})
    assert by_variant["Q8_0+mmproj=Q8_0"].file_bytes == (tmp_path / "mmproj.gguf").stat().st_size


def test_files_that_variants_share_are_kept_until_the_last_one_is_measured(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    """With --keep none."""
    names = ("BF16", "Q8_0", "Q8_0+mmproj=Q8_0")
    cells = planned(model, (tasks["look"],), f"={','.join(names)}", tmp_path).cells
    size = ModelSize(1000, 8.0, 1)
    assert bytes_to_make(cells, dict.fromkeys(names, size)) == 2000  # two text models, each of them once
    towers = {cell.key: 100 for cell in cells if cell.kind == "projector"}
    assert bytes_to_make(cells, dict.fromkeys(names, size), towers) == 2200  # and two projector files
    removed = [_made_only_for(name, cells, names[at + 1 :]) for at, name in enumerate(names)]
    assert [
        [file.name.rpartition("/")[2] for file in dict.fromkeys(file for _, file in files)] for files in removed
    ] == [
        ["look3-BF16.gguf"],
        ["mmproj-look3-F16.gguf"],
        ["look3-Q8_0.gguf", "mmproj-look3-Q8_0.gguf"],
    ]


def test_the_commands_that_run_and_make_a_variant_name_its_projector_file(
    model: Path, tasks: dict[str, str], tmp_path: Path
) -> None:
    plan = planned(model, (tasks["look"],), "=Q8_0,Q8_0+mmproj=Q8_0", tmp_path)
    workspace = Workspace(tmp_path / "w")
    before = run_commands(plan, workspace)["Q8_0+mmproj=Q8_0"]
    assert before.run.startswith("llama-server -m look3-Q8_0.gguf --mmproj mmproj-look3-Q8_0.gguf -c")
    assert before.get == f"sweep convert {model} --to Q8_0 --mmproj Q8_0"
    files = {cell.name: cell.output for cell in plan.cells_of("Q8_0")}
    exported, projector = (files[name].under(workspace.root) for name in ("export", "projector"))  # type: ignore
    exported.parent.mkdir(parents=True)
    exported.touch()
    found = run_commands(plan, workspace)["Q8_0"]
    assert found.run.startswith(f"llama-server -m {exported} --mmproj mmproj-look3-F16.gguf -c")
    assert found.get == f"sweep convert {model} --mmproj F16"
    projector.touch()
    assert f"--mmproj {projector} -c" in run_commands(plan, workspace)["Q8_0"].run
    assert run_commands(plan, workspace)["Q8_0"].get == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Q4_K_M+mmproj=", "'' is not a type of projector files; give one of F32, F16"),
        ("Q4_K_M+mmproj=Q2_K", "'Q2_K' is not a type of projector files"),
        ("Q4_K_M+mmproj=/no/such.gguf", "there is no such projector file: /no/such.gguf"),
        ("Q4_K_X+mmproj=Q8_0", "unknown quant 'Q4_K_X'"),
        ("gguf:/no/such.gguf+mmproj=Q8_0", "gguf:/no/such.gguf: there is no such file"),
        ("int8:sq+mmproj=Q8_0", "mmproj"),
    ],
)
def test_wrong_projectors_in_names_are_rejected(name: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names_of_variants_with_projectors(tmp_path: Path) -> None:
    names = ["q4_k_m+mmproj=f16", "Q4_K_M+mmproj=bf16", "Q4_K_M"]
    assert [variant.name for variant in parse_list(names)] == ["Q4_K_M", "Q4_K_M+mmproj=BF16"]
    files = [tmp_path / place / "mmproj.gguf" for place in "ab"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    found = parse_list([f"Q8_0+mmproj={file}" for file in files])
    assert [variant.name for variant in found] == ["Q8_0+mmproj=mmproj.gguf", f"Q8_0+mmproj={files[1]}"]
