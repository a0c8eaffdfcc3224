"""The cells of torch's variants: their keys change with what a result depends on; and which text recipes read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sweep.planning.torch_cells import TorchSide
from sweep.planning.variant import parse_list, with_baseline

import presets
from converters.errors import InputError
from sweep.cli.results import _torch
from sweep.commands.int8 import calibration_text as read_when_needed
from sweep.jobs.settings import Settings
from sweep.planning.calibration import calibration
from sweep.planning.inputs import Text, calibration_text
from sweep.planning.model import Model
from sweep.planning.planner import Plan, make_plan
from sweep.planning.tasks import Task
from sweep.workspace import Workspace

MICRO = presets.builtin_models()["micro"]


@pytest.fixture
def side(tmp_path: Path) -> TorchSide:
    file = tmp_path / "calibration.txt"
    file.write_text("some words")
    return TorchSide("torch 1", "cpu", Text("words", file))


def planned(folder: Path, side: TorchSide, *names: str, settings: Settings | None = None) -> Plan:
    text = folder / "text.txt"
    text.write_text("words to measure")
    model = Model("m", folder / "m", "f" * 64, 1024)
    variants = with_baseline(parse_list(list(names)))
    return make_plan(
        Workspace(folder), model, variants, variants[0].name, Text("text", text), (Task("t"),),
        settings or Settings(), "mine", torch=side,
    )  # fmt: skip


def keys(plan: Plan) -> dict[str, str]:
    return {cell.label: cell.key for cell in plan.cells}


def moved(before: Plan, after: Plan) -> set[str]:
    return {label for label, key in keys(before).items() if key != keys(after)[label]}


def test_another_calibration_text_moves_what_reads_it_and_all_that_is_made_of_that(
    tmp_path: Path, side: TorchSide
) -> None:
    before = planned(tmp_path, side, "int8:sq", "int8:w8a16")
    assert side.calibration is not None
    side.calibration.file.write_text("other words")
    after = planned(tmp_path, side, "int8:sq", "int8:w8a16")
    assert moved(before, after) == {f"int8:sq/{name}" for name in ("quantize", "speed", "text", "t")}


@pytest.mark.parametrize("change", [{"engine": "torch 2"}, {"device": "cuda"}])
def test_versions_and_device_move_every_measurement(tmp_path: Path, side: TorchSide, change: dict[str, str]) -> None:
    before, after = (planned(tmp_path, given, "int8:sq") for given in (side, replace(side, **change)))
    assert moved(before, after) >= {label for label in keys(before) if not label.endswith("/quantize")}


def test_every_key_of_a_recipe_moves_its_cells(tmp_path: Path, side: TorchSide) -> None:
    """Even where a key has no effect on the checkpoint, it has one on what is computed with it."""
    file = tmp_path / "mine.toml"
    changes = [
        "", "alpha = 0.4", 'activations = "dynamic"', "symmetric = true", 'query_key = "head"', 'value = "head"',
        'insertion = "rope"', "attention_symmetric = true", "folds = []", "percentile = 99", "keep = []",
        'query_key = "head"\nvalue = "head"\ninsertion = "rope"\nint8_attention = true', "int8_kv_cache = true",
        'dequantizer = "bf16"',
    ]  # fmt: skip
    seen: dict[str, set[str]] = {}
    for change in changes:
        file.write_text(f'base = "sq"\n{change}\n')
        for label, key in keys(planned(tmp_path, side, f"int8:{file}")).items():
            seen.setdefault(label, set()).add(key)
    own = {label: len(found) for label, found in seen.items() if label.startswith("int8:")}
    assert own == {f"int8:mine/{name}": len(changes) for name in ("quantize", "speed", "text", "t")}
    assert {len(found) for label, found in seen.items() if label.startswith("torch:")} == {1}


def test_real_and_fake_quant_share_a_checkpoint_and_no_measurement(tmp_path: Path, side: TorchSide) -> None:
    found = keys(planned(tmp_path, side, "int8:sq", "fq:sq"))
    assert "int8:sq/quantize" in found
    assert "fq:sq/quantize" not in found
    for name in ("speed", "text", "t"):
        assert found[f"int8:sq/{name}"] != found[f"fq:sq/{name}"]


def test_threads_move_speed_alone(tmp_path: Path, side: TorchSide) -> None:
    before = planned(tmp_path, side, "int8:sq")
    after = planned(tmp_path, side, "int8:sq", settings=Settings(threads=7))
    assert moved(before, after) == {"torch:BF16/speed", "int8:sq/speed"}


def test_a_calibration_text_is_a_file_a_built_in_models_or_a_published_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("words")
    assert calibration_text(str(file), MICRO, tmp_path) == Text("mine.txt", file)
    assert calibration_text("micro", None, tmp_path) == Text("micro's own text", MICRO.calibration)
    assert calibration_text(None, MICRO, tmp_path) == calibration_text("micro", None, tmp_path)
    published = calibration_text("wikitext-2", MICRO, tmp_path)
    assert published.dataset == ("wikitext", "wikitext-2-raw-v1", "train")
    assert published == calibration_text(None, None, tmp_path)
    with pytest.raises(InputError, match=r"^micr: there is no such text \(--calibration\); give a file or micro$"):
        calibration_text("micr", None, tmp_path)
    read = read_when_needed("micro", None, Workspace(tmp_path))
    assert (read.name, read.read()) == ("micro's own text", MICRO.calibration.read_text(encoding="utf-8"))


def test_an_importance_matrix_is_collected_from_the_same_names(tmp_path: Path) -> None:
    found = calibration("auto", Path("micro"), None)
    assert found is not None
    assert found.text == MICRO.calibration
    with pytest.raises(InputError, match="absent: there is no such text"):
        calibration("auto", Path("absent"), None)


def test_a_report_names_the_cache_and_the_text_that_there_were(tmp_path: Path, side: TorchSide) -> None:
    (tmp_path / "kv.toml").write_text('base = "w8a16"\nint8_kv_cache = true\n')
    both = planned(tmp_path, side, "int8:sq", f"int8:{tmp_path / 'kv.toml'}")
    assert _torch(both) == {"int8": "torch 1, on cpu, BF16 and INT8 KV cache; calibrated with words"}
    plain = planned(tmp_path, replace(side, calibration=None), "int8:w8a16")
    assert _torch(plain) == {"int8": "torch 1, on cpu, BF16 KV cache"}
