"""The advice on a run for certain GPUs: what `sweep fit` places on them, with what the run measured."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from stored_runs import Stored

from converters.errors import InputError
from converters.llamacpp.devices import LlamaDevice
from presets import builtin_models
from presets.advice import Tolerance
from sweep import devices
from sweep.analysis.advice import Advice
from sweep.artefact import Artefact
from sweep.commands.fit import fit
from sweep.commands.run import prepare
from sweep.commands.run_advice import advise_as_asked, advise_on_run
from sweep.fit.fit_report import FitOptions, FitReport, Verdict, verdict
from sweep.fit.hardware import Device, parse_devices
from sweep.jobs.cell import Cell
from sweep.jobs.export import ExportJob
from sweep.jobs.settings import Settings
from sweep.jobs.speed import SpeedJob
from sweep.planning.request import Request
from sweep.results.plan import Plan
from sweep.results.records import records
from sweep.results.store import Outcome, Store
from sweep.run_question import RunQuestion
from sweep.target import Target
from sweep.workspace import Workspace

VARIANTS = ("BF16", "Q8_0", "Q4_K_M", "Q2_K")
SETTINGS = Settings(ctx=1024)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Workspace]:
    """A run of micro whose figures are not measured."""
    space = Workspace(tmp_path_factory.mktemp("advice"))
    nll = np.linspace(1.0, 2.0, 8)
    klds = {"BF16": None, "Q8_0": nll / 1e4, "Q4_K_M": nll / 1e2, "Q2_K": nll / 10}
    plan = Stored(
        "one",
        text={name: (nll, kld) for name, kld in klds.items()},
        variants=VARIANTS,
        settings=SETTINGS,
        about={"model": "micro (built in)"},
        speeds={name: [speed] * 3 for name, speed in zip(VARIANTS, (50.0, 70.0, 90.0, 120.0), strict=True)},
    ).put(space)
    exports = [_export(name) for name in VARIANTS]
    plan = replace(plan, cells=(*exports, *plan.cells))
    with Store(space.database) as store:
        store.add_run(plan.run, plan.to_json())
        for name, size in zip(VARIANTS, (10, 6, 4, 2), strict=True):
            made = {"file_bytes": size * 10**6, "bits_per_weight": 1.6 * size}
            store.put(f"{name} export", Outcome("ok", made, None, 1.0))
    return plan, space


def _export(name: str) -> Cell:
    source, file = Artefact(str(builtin_models()["micro"].directory)), Artefact(f"artefacts/micro-{name}.gguf")
    return Cell(f"{name} export", name, "export", ExportJob(source, "micro", name, file, "m", name, "e"))


def advice(run: tuple[Plan, Workspace], **question: Any) -> Advice:
    plan, space = run
    with Store(space.database) as store:
        return advise_on_run(records(plan, store), plan, space, RunQuestion(**question))


@pytest.mark.parametrize("size", ["1540MiB", "1548MiB", "1553MiB", "24GiB"])
def test_what_is_recommended_fits_by_the_answer_of_fit(run: tuple[Plan, Workspace], size: str) -> None:
    found = advice(run, gpu=(size,), target=Target(min_tps=1.0))
    report = fit("micro", VARIANTS, parse_devices([size]), FitOptions(context=1024, offload="none"))
    fits = {row.variant: verdict(row) is Verdict.FITS for row in report.rows}
    assert len(fits) == 4
    excluded = {one.variant for one in found.excluded if one.reason.startswith("does not fit")}
    assert excluded == {name for name, does in fits.items() if not does}
    if any(fits.values()):
        assert found.variant == next(name for name in VARIANTS if fits[name])
        assert found.pick is not None
        assert not found.pick.speed_is_measured  # this machine does not have that GPU
        assert "-ngl" in found.pick.commands.run
    else:
        assert found.reason == "No variant fits."


def test_without_gpus_the_speeds_of_the_run_decide(run: tuple[Plan, Workspace]) -> None:
    assert advice(run, target=Target(min_tps=80.0)).variant == "Q4_K_M"
    assert advice(run, target=Target(min_tps=100.0)).variant == "Q2_K"


def test_another_context_is_the_one_of_the_command(run: tuple[Plan, Workspace]) -> None:
    found = advice(run, gpu=("24GiB",), ctx=512)
    assert found.pick is not None
    assert " -c 512 " in found.pick.commands.run


def test_the_command_ends_with_3_if_nothing_satisfies_the_target(run: tuple[Plan, Workspace]) -> None:
    place = ("--workspace", run[1].root)
    found = call("report", "one", "--min-tps", "80", *place)
    assert "Excluded by --min-tps 80: BF16 (50.0), Q8_0 (70.0)" in " ".join(found.stdout.split())
    none = call("report", "one", "--min-tps", "100", "--max-kld", "0.001", *place)
    assert none.returncode == 3
    text = " ".join(none.stdout.split())
    assert "No variant satisfies --min-tps 100 and --max-kld 0.001." in text
    assert "Nearest to --min-tps 100: Q8_0 (70.0 tokens/s)." in text


def _asked(run: tuple[Plan, Workspace], root: Path, question: RunQuestion) -> tuple[object, ...]:
    """A copy of the workspace in which the run was started again with this question; the options that name it."""
    plan, space = run
    shutil.copytree(space.root, root)
    with Store(Workspace(root).database) as store:
        store.add_run(plan.run, replace(plan, question=question).to_json())
        assert [stored.run for stored in store.runs()] == [plan.run]
    return "report", "one", "--workspace", root


def test_a_report_asks_what_the_run_was_asked(run: tuple[Plan, Workspace], tmp_path: Path) -> None:
    report = _asked(run, tmp_path / "w", RunQuestion(Tolerance(0.05), Target(min_tps=80.0, max_kld=0.5)))
    options = "--min-tps 80 --max-kld 0.5 --tolerance 5"
    kept, changed, plain = call(*report), call(*report, "--min-tps", "60"), call(*report, "--no-target")
    assert "Run Q4_K_M (" in kept.stdout
    assert f"The advice is for {options}, which `sweep run` was given.\n" in kept.stderr
    assert "Run Q8_0 (" in changed.stdout
    assert "--min-tps 60 counts instead of the run's --min-tps 80.\n" in changed.stderr
    assert "Excluded by --min-tps" not in plain.stdout
    assert "`sweep run` was given" not in plain.stderr
    card = call(*report, "--card", tmp_path / "card.md")
    assert card.returncode == 0, card.stderr
    assert "Q4\\_K\\_M ►" in (tmp_path / "card.md").read_text()
    call(*report, "--no-target", "--card", tmp_path / "card.md", "--force")
    assert "Q4\\_K\\_M ►" not in (tmp_path / "card.md").read_text()


def test_a_report_asks_for_the_gpu_of_the_run(run: tuple[Plan, Workspace]) -> None:
    plan, space = run
    asked = replace(plan, question=RunQuestion(target=Target(min_tps=1.0), gpu=("1GiB",)))
    seen: list[int] = []

    def ask(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
        seen.append(sum(device.usable_bytes for device in devices))
        return fit(model, variants, devices, options)

    with Store(space.database) as store:
        rows = records(plan, store)
    found, said = advise_as_asked(rows, asked, space, ask_fit=ask)
    assert found.reason == "No variant fits."
    assert said == ["The advice is for --gpu 1GiB --min-tps 1, which `sweep run` was given."]
    found, said = advise_as_asked(rows, asked, space, RunQuestion(gpu=("24GiB",)), ask_fit=ask)
    assert found.variant is not None
    assert said[0].endswith("which `sweep run` was given; --gpu 24GiB counts instead of the run's --gpu 1GiB.")
    assert seen == [1 << 30, 24 << 30]


def test_without_the_model_the_gpu_of_the_run_does_not_count(run: tuple[Plan, Workspace]) -> None:
    plan, space = run
    asked = replace(plan, question=RunQuestion(gpu=("1GiB",)), about=dict(plan.about) | {"model": "/gone/model"})
    with Store(space.database) as store:
        rows = records(plan, store)
    found, said = advise_as_asked(rows, asked, space)
    assert found.variant == advice(run).variant
    assert said[1].startswith("The run's --gpu 1GiB does not count, because what fits cannot be computed: /gone/model")
    with pytest.raises(InputError, match="/gone/model"):
        advise_as_asked(rows, asked, space, RunQuestion(gpu=("2GiB",)))


@pytest.mark.parametrize("ngl", [None, 3])
def test_a_variant_that_is_partly_in_ram_is_measured_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ngl: int | None
) -> None:
    gpu = LlamaDevice("CUDA0", "a GPU", "gpu", 1 << 40, 1 << 40)
    monkeypatch.setattr(devices, "gpus", lambda: [gpu])
    asked = ("1550MiB, any RAM",)
    text = tmp_path / "text.txt"
    text.write_text("Mara bought 12 apples. " * 300)
    request = Request(
        variants="=Q8_0,Q2_K",
        tasks=("none",),
        perplexity=(text,),
        gpu=asked,
        ctx=1024,
        workspace=tmp_path / "space",
        ngl=ngl,
    )
    plan = prepare(request, lambda _: None).plan
    rows = {
        row.variant: row for row in fit("micro", ("Q8_0", "Q2_K"), parse_devices(asked), FitOptions(context=1024)).rows
    }
    assert (verdict(rows["Q8_0"]), verdict(rows["Q2_K"])) == (Verdict.PARTLY, Verdict.FITS)
    measured = {
        cell.variant: cell.job.model.settings.gpu_layers for cell in plan.cells if isinstance(cell.job, SpeedJob)
    }
    everything = devices.ALL_LAYERS if ngl is None else ngl
    assert 0 < rows["Q8_0"].gpu_layers < rows["Q8_0"].n_layers
    assert measured == {
        "BF16": measured["BF16"],
        "Q8_0": rows["Q8_0"].gpu_layers if ngl is None else ngl,
        "Q2_K": everything,
    }
