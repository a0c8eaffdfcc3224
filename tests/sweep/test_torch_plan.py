"""The cells of variants that torch runs: what their keys depend on, and which calibration text recipes read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from plans import planned as plan_of
from plans import text_file

import presets
from converters.errors import InputError
from int8.quantize_model import CalibrationText
from int8.tokenizer import load_tokenizer
from sweep.artefact import Artefact
from sweep.cli.run_output import _describe_torch
from sweep.commands.int8 import Int8Request, _text
from sweep.jobs import model as openers
from sweep.jobs.inputs import TextFile
from sweep.jobs.settings import ComputeResources
from sweep.planning.imatrix import find_imatrix
from sweep.planning.texts import calibration_text
from sweep.results.plan import Plan
from sweep.workspace import Workspace

MICRO = presets.builtin_models()["micro"]
CPU = ComputeResources(1, {"torch": "cpu"})


@pytest.fixture
def words(tmp_path: Path) -> TextFile:
    return text_file(tmp_path / "words", "some words")


def planned(words: TextFile | None, *names: str, resources: ComputeResources = CPU) -> Plan:
    return plan_of(*names, text=TextFile("text", Artefact("/text"), "t"), resources=resources, calibration=words)


def keys(plan: Plan) -> dict[str, str]:
    return {cell.label: cell.key for cell in plan.cells}


def changed(before: Plan, after: Plan) -> set[str]:
    return {label for label, key in keys(before).items() if key != keys(after)[label]}


def test_another_calibration_text_changes_the_keys_of_the_checkpoints_that_read_it_and_of_their_measurements(
    tmp_path: Path, words: TextFile
) -> None:
    before = planned(words, "int8:sq", "int8:w8a16")
    after = planned(text_file(tmp_path / "words", "other words"), "int8:sq", "int8:w8a16")
    assert changed(before, after) == {f"int8:sq/{name}" for name in ("quantize", "speed", "text", "t")}


def test_versions_and_device_change_the_key_of_every_measurement(
    words: TextFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = planned(words, "int8:sq")
    on_gpu = planned(words, "int8:sq", resources=ComputeResources(1, {"torch": "cuda"}))
    monkeypatch.setattr(openers, "version", lambda package: f"another {package}")
    of_others = planned(words, "int8:sq")
    for after in (on_gpu, of_others):
        assert changed(before, after) >= {label for label in keys(before) if not label.endswith("/quantize")}


def test_every_setting_of_a_recipe_changes_the_keys_of_its_cells(tmp_path: Path, words: TextFile) -> None:
    """A setting that has no effect on the checkpoint changes what is computed with it."""
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
        for label, key in keys(planned(words, f"int8:{file}")).items():
            seen.setdefault(label, set()).add(key)
    own = {label: len(found) for label, found in seen.items() if label.startswith("int8:")}
    assert own == {f"int8:mine/{name}": len(changes) for name in ("quantize", "speed", "text", "t")}
    assert {len(found) for label, found in seen.items() if label.startswith("torch:")} == {1}


def test_int8_and_fake_quant_share_a_checkpoint_but_no_measurement(words: TextFile) -> None:
    found = keys(planned(words, "int8:sq", "fq:sq"))
    assert "int8:sq/quantize" in found
    assert "fq:sq/quantize" not in found
    for name in ("speed", "text", "t"):
        assert found[f"int8:sq/{name}"] != found[f"fq:sq/{name}"]


def test_threads_change_only_the_key_of_speed(words: TextFile) -> None:
    before = planned(words, "int8:sq")
    after = planned(words, "int8:sq", resources=ComputeResources(7, {"torch": "cpu"}))
    assert changed(before, after) == {"torch:BF16/speed", "int8:sq/speed"}


def test_a_calibration_text_is_a_file_or_built_in_or_published(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("words")
    assert calibration_text(str(file), MICRO, workspace=tmp_path).file == TextFile(
        "mine.txt", Artefact.of(file), hashlib.sha256(b"words").hexdigest(), bytes=5
    )
    own = calibration_text("micro", None, workspace=tmp_path)
    assert (own.name, own.file.file, own.dataset) == ("micro's own text", Artefact.of(MICRO.calibration), None)
    assert calibration_text(None, MICRO, workspace=tmp_path) == own
    published = calibration_text("wikitext-2", MICRO, workspace=tmp_path)
    assert published.dataset is not None
    assert published.file.identity == "wikitext/wikitext-2-raw-v1/train"
    assert published == calibration_text(None, None, workspace=tmp_path)
    with pytest.raises(InputError, match=r"^micr: there is no such text \(--calibration\); give a file or micro$"):
        calibration_text("micr", None, workspace=tmp_path)
    read = _text(Int8Request("micro", "sq", tmp_path), Workspace(tmp_path), MICRO.directory, print)
    assert isinstance(read, CalibrationText)
    text = read.read(load_tokenizer(MICRO.directory))
    assert (read.name, text) == ("micro's own text", MICRO.calibration.read_text(encoding="utf-8"))


def test_an_importance_matrix_is_collected_from_texts_of_the_same_names(tmp_path: Path) -> None:
    found = find_imatrix("auto", Path("micro"), None)
    assert found is not None
    assert found.text == MICRO.calibration
    with pytest.raises(InputError, match="absent: there is no such text"):
        find_imatrix("auto", Path("absent"), None)


def test_a_report_names_the_kv_cache_type_and_the_text_of_the_run(tmp_path: Path, words: TextFile) -> None:
    (tmp_path / "kv.toml").write_text('base = "w8a16"\nint8_kv_cache = true\n')
    engine = openers.ENGINES["torch"].versions
    both = planned(words, "int8:sq", f"int8:{tmp_path / 'kv.toml'}")
    assert _describe_torch(both) == {"int8": f"{engine}, on cpu, BF16 and INT8 KV cache; calibrated with words"}
    assert _describe_torch(planned(None, "int8:w8a16")) == {"int8": f"{engine}, on cpu, BF16 KV cache"}
