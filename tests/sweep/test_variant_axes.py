"""The KV cache as a part of a variant's name: its spelling, what it changes in a plan, and what rejects it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from plans import planned, text_file

from converters.errors import InputError
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import FitOptions
from sweep.jobs.model import MeasurementJob
from sweep.kv_cache import KVCache
from sweep.methods.registry import parse
from sweep.variant_name import cache_axis, split_cache, split_projector, variant_names


@pytest.mark.parametrize(
    ("typed", "name", "cache"),
    [
        ("q4_k_m+kv=Q8_0", "Q4_K_M+kv=q8_0", KVCache("q8_0", "q8_0")),
        ("Q4_K_M+k=q8_0,v=q4_0", "Q4_K_M+k=q8_0+v=q4_0", KVCache("q8_0", "q4_0")),
        ("Q4_K_M+v=q4_0+k=q8_0", "Q4_K_M+k=q8_0+v=q4_0", KVCache("q8_0", "q4_0")),
        ("Q4_K_M+k=q8_0", "Q4_K_M+k=q8_0", KVCache("q8_0", "f16")),
        ("Q4_K_M+k=q8_0+v=q8_0", "Q4_K_M+kv=q8_0", KVCache("q8_0", "q8_0")),
        ("Q4_K_M+kv=f16", "Q4_K_M+kv=f16", KVCache()),
        ("Q4_K_M+kv=q8_0+mmproj=Q8_0", "Q4_K_M+kv=q8_0+mmproj=Q8_0", KVCache("q8_0", "q8_0")),
        ("Q4_K_M+mmproj=Q8_0+kv=q8_0", "Q4_K_M+kv=q8_0+mmproj=Q8_0", KVCache("q8_0", "q8_0")),
        ("Q4_K_M", "Q4_K_M", None),
    ],
)
def test_a_name_that_is_read_back_is_the_same_variant(typed: str, name: str, cache: KVCache | None) -> None:
    variant = parse(typed)
    assert (variant.name, variant.cache) == (name, cache)  # type: ignore[attr-defined]  # a quant has a cache
    assert parse(variant.name) == variant
    assert split_cache(name)[1] == cache
    assert split_cache(name)[0] == name.replace(cache_axis(cache), "")
    assert split_projector(typed)[1] == ("Q8_0" if "mmproj" in typed else None)


def test_a_comma_between_the_types_does_not_end_a_name() -> None:
    typed = "=Q2_K, Q4_K_M+k=q8_0,v=q4_0 ,Q4_K_M+v=q4_0,k=q8_0+mmproj=F16,,Q8_0+kv=q5_1"
    names = variant_names(typed.removeprefix("="))
    assert names == ("Q2_K", "Q4_K_M+k=q8_0,v=q4_0", "Q4_K_M+v=q4_0,k=q8_0+mmproj=F16", "Q8_0+kv=q5_1")
    assert parse(names[2]).name == "Q4_K_M+k=q8_0+v=q4_0"


def test_a_rule_that_looks_like_a_cache_stays_a_rule() -> None:
    rule = "Q4_K_M;attn_+k=q8_0"  # the regular expression attn_+k
    assert split_cache(rule) == (rule, None)
    assert split_cache(f"{rule}+kv=q4_0") == (rule, KVCache("q4_0", "q4_0"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("Q4_K_M+kv=q9", "q9 is not a type of the K cache; choose one of f16"),
        ("Q4_K_M+kv=", "is not a type of the K cache"),
        ("Q4_K_M+kv=q8_0+k=f16", "names a type of the KV cache twice"),
        ("Q4_K_M+k=q8_0+k=f16", "names a type of the KV cache twice"),
        (
            "int8:sq-ph-dyn+kv=q8_0",
            "only variants that llama.cpp runs have types of its KV cache; write int8:sq-ph-dyn",
        ),
        ("torch:BF16+kv=q8_0", "write torch:BF16"),
    ],
)
def test_a_wrong_cache_is_rejected(typed: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        parse(typed)


def test_variants_that_differ_in_the_cache_share_a_file_and_no_measurement(tmp_path: Path) -> None:
    text = text_file(tmp_path / "text.txt", "some words")
    plan = planned("BF16", "Q4_K_M", "Q4_K_M+kv=q8_0", "Q4_K_M+k=q8_0+v=q4_0", text=text)
    exports = [cell for cell in plan.cells if cell.name == "export"]
    assert [cell.variant for cell in exports] == ["BF16", "Q4_K_M"]
    others = [cell for cell in plan.cells if cell.variant.startswith("Q4_K_M") and cell.name != "export"]
    assert all(exports[1].key in cell.needs for cell in others)
    assert len({cell.key for cell in others}) == len(others) == 9
    caches = {cell.variant: cell.job.model.settings.kv_type for cell in others if isinstance(cell.job, MeasurementJob)}
    assert caches == {"Q4_K_M": "f16", "Q4_K_M+kv=q8_0": "q8_0", "Q4_K_M+k=q8_0+v=q4_0": "q8_0,q4_0"}
    plain = planned("BF16", "Q4_K_M", text=text)
    assert {cell.key for cell in plain.cells} < {cell.key for cell in plan.cells}


def test_a_file_has_no_cache(tmp_path: Path) -> None:
    done = call("convert", "micro", "--to", "Q4_K_M+k=q8_0,v=q4_0", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a file has no KV cache, which exists while it runs; write --to Q4_K_M" in done.stderr
    assert not list(tmp_path.iterdir())


def test_fit_gives_a_variant_the_memory_and_the_command_of_its_cache() -> None:
    names = ("Q4_K_M", "Q4_K_M+kv=q8_0", "Q4_K_M+k=q8_0,v=q4_0")
    report = fit_model("Qwen3-0.6B", names, [], FitOptions(context=8192))
    alone = [
        fit_model("Qwen3-0.6B", ["Q4_K_M"], [], FitOptions(context=8192, kv_type_k=k, kv_type_v=v)).rows[0]
        for k, v in (("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"))
    ]
    assert [row.variant for row in report.rows] == ["Q4_K_M", "Q4_K_M+kv=q8_0", "Q4_K_M+k=q8_0+v=q4_0"]
    assert [row.total_bytes for row in report.rows] == [row.total_bytes for row in alone]
    assert [row.arguments for row in report.rows] == [row.arguments for row in alone]
    assert len({row.file_bytes for row in report.rows}) == 1
    assert [report.kv_type_of(row) for row in report.rows] == ["f16", "q8_0", "q8_0,q4_0"]
    with pytest.raises(InputError, match="a V cache of q8_0 needs flash attention"):
        fit_model("Qwen3-0.6B", names[1:], [], FitOptions(flash_attention=False))


@pytest.mark.slow
def test_a_sweep_measures_what_the_cache_costs_beside_plain_variants(tmp_path: Path) -> None:
    import presets

    text = tmp_path / "text.txt"
    text.write_text(presets.builtin_models()["micro"].text.read_text()[:8_000])
    variants = "=Q8_0,Q8_0+k=q4_0,v=q4_0,BF16+kv=q4_0"
    arguments = ("run", "micro", "--variants", variants, "--measure", "text", "--perplexity", text)
    done = call(*arguments, "--workspace", tmp_path / "w", "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["variant"]: row for row in json.loads(done.stdout.splitlines()[-1])["records"]}
    assert list(rows) == ["BF16", "Q8_0", "Q8_0+kv=q4_0", "BF16+kv=q4_0"]
    assert [row["kv_type"] for row in rows.values()] == ["f16", "f16", "q4_0", "q4_0"]
    kld = {name: row["divergence"]["kld_mean"] for name, row in rows.items() if name != "BF16"}
    assert kld["Q8_0+kv=q4_0"] > 2 * kld["Q8_0"]
    assert kld["BF16+kv=q4_0"] > 2 * kld["Q8_0"]
    assert rows["Q8_0"]["file_bytes"] == rows["Q8_0+kv=q4_0"]["file_bytes"]
    assert rows["Q8_0"]["memory"]["predicted_bytes"] > rows["Q8_0+kv=q4_0"]["memory"]["predicted_bytes"]
    assert len(list(tmp_path.rglob("*.gguf"))) == 2
    again = call(*arguments[:3], "=Q8_0", *arguments[4:], "--kv-type", "q4_0", "--workspace", tmp_path / "w",
                 "--format", "json")  # fmt: skip
    assert json.loads(again.stdout.splitlines()[0])["todo"] == 0  # the same measurement by another name
