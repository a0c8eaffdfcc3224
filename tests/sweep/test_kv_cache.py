"""`--kv-type` of `sweep run` and `sweep eval`: what is measured with the cache, what keeps f16, and what is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from plans import planned, text_file

import presets
from sweep.analysis.figures import cache_words
from sweep.analysis.run_candidates import advise_on_records
from sweep.jobs.model import MeasurementJob
from sweep.jobs.settings import Settings
from sweep.kv_cache import KVCache
from sweep.record import Record

MICRO = presets.builtin_models()["micro"]
LLAMA_CPP = ("Q8_0", "Q2_K")
VARIANTS = ("BF16", *LLAMA_CPP, "int8:sq-ph-dyn")


def caches(settings: Settings, **options: Any) -> dict[str, str]:
    """The cache that each variant is measured with."""
    cells = planned(*VARIANTS, settings=settings, **options).cells
    return {cell.variant: cell.job.model.settings.kv_type for cell in cells if isinstance(cell.job, MeasurementJob)}


def test_all_that_llama_cpp_runs_is_measured_with_the_cache_but_the_reference(tmp_path: Path) -> None:
    chosen = Settings(kv_type="q8_0,f16")
    assert caches(chosen) == {
        "BF16": "f16",
        **dict.fromkeys(LLAMA_CPP, "q8_0,f16"),
        "torch:BF16": "bf16",
        "int8:sq-ph-dyn": "bf16",
    }
    text = text_file(tmp_path / "text.txt", "some words")
    before, after = (
        {cell.label: cell.key for cell in planned(*VARIANTS, text=text, settings=one).cells}
        for one in (Settings(), chosen)
    )
    changed = {label for label in before if before[label] != after[label]}
    assert changed == {f"{variant}/{name}" for variant in LLAMA_CPP for name in ("speed", "text", "t")}


def test_a_skipped_variant_is_shown_with_the_cache_of_the_others_and_not_of_the_reference() -> None:
    plan = planned("BF16", "Q8_0", settings=Settings(kv_type="q8_0"))
    left = replace(plan, cells=tuple(cell for cell in plan.cells if cell.variant == "BF16"))
    models = {name: left.model_of(name) for name in ("BF16", "Q8_0")}
    assert {name: model.settings.kv_type for name, model in models.items() if model} == {"BF16": "f16", "Q8_0": "q8_0"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "micro", "--kv-type", "q9"), "q9 is not a type of the K cache; choose one of f16, bf16, q8_0"),
        (("run", "micro", "--kv-type", "f16,f16,f16"), "neither one type nor two"),
        (("run", "micro", "--kv-type", "q8_0", "--variants", "=BF16"), "the reference BF16 keeps an f16 cache"),
        (("run", "micro", "--kv-type", "q8_0", "--variants", "=int8:sq-ph-dyn"), "those that llama.cpp runs"),
        (("eval", "micro", "--kv-type", "q8_0", "--quant", "int8:sq-ph-dyn"), "those that llama.cpp runs"),
        (("eval", "micro", "--kv-type", "q8_0", "--write-base", "x.kld"), "leave --kv-type out"),
    ],
)
def test_a_cache_that_no_variant_would_have_is_rejected(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = call(*arguments, "--workspace", tmp_path / "w")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("sweep: ")
    assert message in line
    assert not list(tmp_path.rglob("*.db"))


def test_a_cache_that_llama_cpp_cannot_make_is_rejected_before_any_work(tiny: Any, tmp_path: Path) -> None:
    """Blocks of q8_0 have 32 values, the heads of this model 16."""
    arguments = ("run", tiny.directory, "--variants", "=Q8_0", "--tasks", "none", "--perplexity", MICRO.text)
    done = call(*arguments, "--kv-type", "q8_0", "--workspace", tmp_path / "w")
    assert done.returncode == 2
    assert "K cache type q8_0 with block size 32 does not divide n_embd_head_k=16" in done.stderr
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_dry_run_names_the_cache_and_what_it_does_not_change(tmp_path: Path) -> None:
    arguments = ("run", "micro", "--tasks", "none", "--workspace", tmp_path, "--dry-run", "--variants")
    done = call(*arguments, "=Q8_0,int8:sq-ph-dyn", "--kv-type", "q8_0")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "--kv-type" in line]
    assert told == ["--kv-type q8_0 is for variants that llama.cpp runs; it does not change torch:BF16, int8:sq-ph-dyn"]
    assert "q8_0 (reference BF16: f16) KV cache for 1024 tokens" in " ".join(done.stdout.split())
    plan, default = (
        json.loads(call(*arguments, "=Q8_0", "--kv-type", kv_type, "--format", "json").stdout.splitlines()[-1])
        for kv_type in ("q8_0", "f16")
    )
    assert (plan["settings"]["kv_type"], default["settings"]["kv_type"]) == ("q8_0", "f16")
    assert plan["run"] != default["run"]
    memory, usual = ({one["variant"]: one["memory_bytes"] for one in found["variants"]} for found in (plan, default))
    assert {name for name in memory if memory[name] != usual[name]} == {"Q8_0"}
    assert memory["Q8_0"] < usual["Q8_0"]


def test_a_reference_with_another_cache_is_not_simpler_to_run(records: list[Record]) -> None:
    """The user chose the cache, so it is no reason to run the reference, whose cache is f16."""
    chosen = [replace(one, kv_type="f16" if one.variant == one.reference else "q8_0") for one in records]
    advice = advise_on_records(chosen, "micro")
    assert advice.variant == advise_on_records(records, "micro").variant
    assert advice.pick is not None
    assert advice.pick.name == f"{advice.variant} with a q8_0 KV cache"


def test_the_table_names_the_caches(records: list[Record]) -> None:
    assert cache_words(records) == ""
    chosen = [replace(one, kv_type="f16" if one.variant == one.reference else "q8_0") for one in records]
    assert cache_words(chosen) == "KV cache: q8_0; f16 for BF16"
    assert str(KVCache.parse("Q8_0, f16")) == "q8_0,f16"
    assert str(KVCache.parse("q8_0,q8_0")) == "q8_0"


@pytest.mark.slow
def test_a_run_measures_the_cost_of_the_cache_and_fit_uses_it_only_for_the_same_cache(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(MICRO.text.read_text()[:8_000])
    small = ("run", "micro", "--variants", "=Q8_0", "--tasks", "micro_form", "--limit", "8", "--perplexity", text)

    def run(*more: str) -> tuple[dict[str, Any], dict[str, Any]]:
        done = call(*small, "--workspace", tmp_path / "w", "--format", "json", *more)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return lines[0], lines[-1]

    _, plain = run()
    begun, other = run("--kv-type", "q4_0")
    assert begun["todo"] == 3  # neither the export nor the reference is measured again
    (reference, own), (same, base) = other["records"], plain["records"]
    assert (reference["kv_type"], own["kv_type"], base["kv_type"]) == ("f16", "q4_0", "f16")
    assert reference == same
    assert own["divergence"]["kld_mean"] > 2 * base["divergence"]["kld_mean"]
    assert own["memory"]["predicted_bytes"] < base["memory"]["predicted_bytes"]
    assert run("--kv-type", "q4_0")[0]["todo"] == 0
    page = (tmp_path / "w" / "runs" / other["run"] / "report.html").read_text()
    assert "q4_0 (reference BF16: f16); memory computed" in page
    printed = call("report", other["run"], "--workspace", tmp_path / "w").stdout
    assert "KV cache: q4_0; f16 for BF16." in printed
    for cache, measured in (("f16", base), ("q4_0", own)):
        asked = ("fit", "micro", "--variants", "BF16,Q8_0", "--kv-type", cache, "--workspace", tmp_path / "w")
        rows = json.loads(call(*asked, "--format", "json").stdout)["rows"]
        (found,) = (row["expected_kld"] for row in rows if row["variant"] == "Q8_0")
        assert (found["value"], found["source"]) == (measured["divergence"]["kld_mean"], "measured")
    # nothing is known about BF16 with this cache
    assert [row["expected_kld"] for row in rows if row["variant"] == "BF16"] == [None]
