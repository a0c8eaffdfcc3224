"""Variants that torch runs in a real sweep of the built-in model, next to GGUF variants and with their own baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call as sweep

import presets
from converters.errors import InputError
from sweep.methods.int8 import Int8
from sweep.methods.registry import method, parse, parse_list, with_baselines
from sweep.methods.torch import TORCH_FLOAT

MICRO = presets.builtin_models()["micro"]
RECIPE = "sq-ph-dyn"


def short(file: Path, characters: int = 8_000) -> Path:
    """The beginning of the test text."""
    file.write_text(MICRO.text.read_text()[:characters])
    return file


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The arguments of a sweep and its records by variant."""
    folder = tmp_path_factory.mktemp("sweep")
    calibration = folder / "calibration.txt"
    calibration.write_text(MICRO.calibration.read_text()[:20_000])
    arguments = ["run", "micro", "--variants", f"=Q8_0,int8:{RECIPE},fq:{RECIPE}", "--tasks", "micro_form"]
    arguments += ["--limit", "8", "--perplexity", str(short(folder / "text.txt")), "--calibration", str(calibration)]
    arguments += ["--workspace", str(folder / "workspace"), "--format", "json"]
    done = sweep(*arguments)
    assert done.returncode == 0, done.stderr
    finished = json.loads(done.stdout.splitlines()[-1])
    return arguments, {record["variant"]: record for record in finished["records"]}


@pytest.mark.slow
def test_every_variant_is_measured_against_its_own_baseline(
    ran: tuple[list[str], dict[str, dict[str, Any]]],
) -> None:
    _, records = ran
    assert list(records) == ["BF16", "Q8_0", TORCH_FLOAT, f"int8:{RECIPE}", f"fq:{RECIPE}"]
    assert [record["kind"] for record in records.values()] == ["gguf", "gguf", "torch", "int8", "fq"]
    for name, record in records.items():
        base = "BF16" if record["kind"] == "gguf" else TORCH_FLOAT
        assert record["status"] == "ok", record["error"]
        assert record["reference"] == record["task_reference"] == base
        assert record["speed"]["decode_tokens_per_s"] > 0
        assert record["memory"]["measured_bytes"] > 0
        assert record["memory"]["predicted_bytes"] > record["file_bytes"] * 0.9
        assert (record["divergence"] is None) == (name == base)
        score = record["tasks"]["micro_form"]
        assert score["n"] == 8
        if name != base:
            assert score["delta"] == pytest.approx(score["value"] - records[base]["tasks"]["micro_form"]["value"])
            assert record["divergence"]["kld_mean"] > 0
            assert record["divergence"]["noise_floor"] is not None
    assert "torch" in records[TORCH_FLOAT]["settings"]["engine"]
    assert "llama" in records["Q8_0"]["settings"]["engine"]


@pytest.mark.slow
def test_the_two_engines_agree_on_the_float_model(ran: tuple[list[str], dict[str, dict[str, Any]]]) -> None:
    _, records = ran
    ours, theirs = (records[name]["perplexity"] for name in (TORCH_FLOAT, "BF16"))
    assert ours["tokens"] == theirs["tokens"]
    assert ours["value"] == pytest.approx(theirs["value"], rel=5e-3)
    assert records[TORCH_FLOAT]["bits_per_weight"] == 16
    assert records["BF16"]["bits_per_weight"] == pytest.approx(16, rel=1e-2)


@pytest.mark.slow
def test_int8_differs_from_fake_quant_by_less_than_a_thousandth(
    ran: tuple[list[str], dict[str, dict[str, Any]]],
) -> None:
    _, records = ran
    real, fake = records[f"int8:{RECIPE}"], records[f"fq:{RECIPE}"]
    assert real["perplexity"]["value"] == pytest.approx(fake["perplexity"]["value"], rel=1e-3)
    assert real["perplexity"]["value"] == pytest.approx(records[TORCH_FLOAT]["perplexity"]["value"], rel=0.05)
    assert real["file_bytes"] == fake["file_bytes"] < records[TORCH_FLOAT]["file_bytes"]
    assert 8 < real["bits_per_weight"] == fake["bits_per_weight"] < 16


@pytest.mark.slow
def test_a_second_run_computes_nothing(ran: tuple[list[str], dict[str, dict[str, Any]]]) -> None:
    arguments, records = ran
    again = sweep(*arguments)
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert next(event for event in events if event["event"] == "started")["todo"] == 0
    assert {record["variant"]: record for record in events[-1]["records"]} == records


@pytest.fixture(scope="module")
def weights_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short text, and a workspace `w` in which `evaluated` measures."""
    folder = tmp_path_factory.mktemp("eval")
    short(folder / "text.txt")
    return folder


def evaluated(folder: Path, recipe: object) -> dict[str, Any]:
    """The record of a recipe, which `sweep eval` measures, or finds in the workspace."""
    arguments = ["--perplexity", folder / "text.txt", "--workspace", folder / "w", "--format", "json"]
    done = sweep("eval", "micro", "--quant", f"int8:{recipe}", *arguments)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout.splitlines()[-1])["records"]
    return dict(record)


@pytest.mark.slow
def test_variants_of_torch_are_measured_without_gguf(weights_only: Path) -> None:
    record = evaluated(weights_only, "w8a16")
    assert record["variant"] == record["reference"] == "int8:w8a16"
    assert record["perplexity"]["value"] > 1
    assert 8 < record["bits_per_weight"] < 16
    assert not list((weights_only / "w").rglob("*.gguf"))


@pytest.mark.slow
def test_a_recipe_with_an_int8_cache_is_measured_with_one(weights_only: Path) -> None:
    (weights_only / "kv.toml").write_text('base = "w8a16"\nint8_kv_cache = true\n')
    plain, cached = (evaluated(weights_only, recipe) for recipe in ("w8a16", weights_only / "kv.toml"))
    assert (plain["kv_type"], cached["kv_type"]) == ("bf16", "int8")
    assert cached["memory"]["predicted_bytes"] < plain["memory"]["predicted_bytes"]
    assert cached["perplexity"]["value"] != plain["perplexity"]["value"]
    assert cached["perplexity"]["value"] == pytest.approx(plain["perplexity"]["value"], rel=1e-3)


def test_the_baseline_comes_before_int8_by_itself() -> None:
    names = [variant.name for variant in with_baselines(parse_list(["int8:sq", "Q4_K_M", "fq:sq", "int8:sq"]))]
    assert names == ["Q4_K_M", TORCH_FLOAT, "int8:sq", "fq:sq"]
    assert [variant.name for variant in with_baselines(parse_list(["Q4_K_M"]))] == ["Q4_K_M"]


def test_recipe_files_with_the_same_name_get_different_names(tmp_path: Path) -> None:
    for folder, alpha in (("a", 0.4), ("b", 0.6)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(f'base = "sq"\nalpha = {alpha}\n')
    variants = parse_list([f"int8:{tmp_path}/a/mine.toml", f"int8:{tmp_path}/b/mine.toml"])
    assert [variant.recipe.alpha for variant in variants if isinstance(variant, Int8)] == [0.4, 0.6]
    assert len({variant.name for variant in variants}) == 2
    assert {method(variant.name).kind for variant in variants} == {"int8"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("int8:sq-phh", "there is no recipe"), ("fq:nowhere.toml", "there is no recipe"), ("torch:F16", TORCH_FLOAT)],
)
def test_unknown_recipes_are_rejected(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "=int8:sqq"], "sqq: there is no recipe"),
        (["--reference", "int8:sq"], "compared with torch:BF16"),
        (["--variants", "=torch:F32"], "torch:F32: the float variant of this model is torch:BF16"),
        (["--reference", "torch:BF16"], "GGUF variants cannot be compared with it"),
        (["--variants", "=int8:sq", "--imatrix", "auto"], "only GGUF quants use it"),
    ],
)
def test_bad_input_gives_one_line_before_any_work(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = sweep("run", "micro", *arguments, "--tasks", "none", "--workspace", tmp_path / "workspace")
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert message in lines[0]
    assert not (tmp_path / "workspace" / "sweep.db").exists()


def test_a_gguf_cannot_become_int8(tmp_path: Path) -> None:
    from converters.export import export, open_source

    file = tmp_path / "micro.gguf"
    export(open_source(MICRO.directory, "micro"), {"BF16": file}, threads=1)
    done = sweep("run", file, "--variants", "=int8:sq", "--tasks", "none", "--workspace", tmp_path / "workspace")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"sweep: {file}: int8:sq is made from a Hugging Face checkpoint; give its directory or hub id"
    ]
