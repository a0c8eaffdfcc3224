"""A cell's key changes with what its result depends on, and with nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from sweep.planning.variant import parse

from converters.errors import InputError
from sweep.jobs.settings import Settings
from sweep.measure.options import TaskOptions
from sweep.planning.inputs import Text
from sweep.planning.model import Model
from sweep.planning.planner import Plan, make_plan
from sweep.planning.tasks import Task
from sweep.workspace import Workspace


@pytest.fixture
def text(tmp_path: Path) -> Text:
    file = tmp_path / "text.txt"
    file.write_text("some words")
    return Text("words", file)


def planned(tmp_path: Path, text: Text, settings: Settings = Settings(), fingerprint: str = "f" * 64) -> Plan:  # noqa: B008
    model = Model("m", tmp_path / "m", fingerprint, 1024)
    variants = [parse("Q8_0"), parse("BF16"), parse("Q2_K")]
    task = Task("t", options=TaskOptions(limit=3))
    return make_plan(Workspace(tmp_path), model, variants, "BF16", text, (task,), settings, "mine")


def keys(plan: Plan) -> dict[str, str]:
    return {cell.label: cell.key for cell in plan.cells}


def test_the_reference_comes_first_and_the_others_need_its_text(tmp_path: Path, text: Text) -> None:
    plan = planned(tmp_path, text)
    assert [cell.variant for cell in plan.cells[:4]] == ["BF16"] * 4
    assert plan.variants == ("Q8_0", "BF16", "Q2_K")
    by_label = {cell.label: cell for cell in plan.cells}
    reference = by_label["BF16/text"]
    assert reference.makes == reference.params["writes_reference"]
    for variant in ("Q8_0", "Q2_K"):
        cell = by_label[f"{variant}/text"]
        assert cell.params["reference"] == reference.makes
        assert reference.key in cell.needs


def test_threads_and_ctx_move_speed_alone(tmp_path: Path, text: Text) -> None:
    before = keys(planned(tmp_path, text))
    after = keys(planned(tmp_path, text, Settings(threads=7, ctx=512)))
    assert {label for label in before if before[label] != after[label]} == {
        f"{v}/speed" for v in ("BF16", "Q8_0", "Q2_K")
    }


def test_window_and_text_move_what_is_measured_with_them(tmp_path: Path, text: Text) -> None:
    before = keys(planned(tmp_path, text))
    text.file.write_text("other words")
    after = keys(planned(tmp_path, text))
    assert {label for label in before if before[label] != after[label]} == {
        f"{v}/text" for v in ("BF16", "Q8_0", "Q2_K")
    }
    wider = keys(planned(tmp_path, text, replace(Settings(), window=256)))
    assert {label for label in after if after[label] == wider[label]} == {
        f"{v}/export" for v in ("BF16", "Q8_0", "Q2_K")
    }


def test_another_model_moves_everything(tmp_path: Path, text: Text) -> None:
    before, after = keys(planned(tmp_path, text)), keys(planned(tmp_path, text, fingerprint="e" * 64))
    assert not {label for label in before if before[label] == after[label]}


def test_a_plan_survives_json(tmp_path: Path, text: Text) -> None:
    plan = planned(tmp_path, text)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_reference_that_is_not_measured_is_refused(tmp_path: Path, text: Text) -> None:
    model = Model("m", tmp_path / "m", "f" * 64, 1024)
    with pytest.raises(InputError, match="the reference BF16 is not among the variants"):
        make_plan(Workspace(tmp_path), model, [parse("Q8_0")], "BF16", text, (), Settings(), "mine")
