"""Contexts beyond the trained one: fit plans them with YaRN where the model's makers say how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import presets
from converters.errors import InputError
from converters.export import export
from converters.llamacpp.bindings import lib
from converters.llamacpp.model import Model
from converters.resolver import open_source
from presets.long_context import Yarn, long_context
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import FitOptions, from_json, to_json
from sweep.fit.hardware import parse_devices

GPU = parse_devices(["RTX 4090"])
WORDS = "--rope-scaling yarn --rope-scale {} --yarn-orig-ctx 32768"


def test_the_command_has_the_smallest_factor_that_suffices() -> None:
    known = long_context("qwen3", 40960, 4096)
    assert known is not None
    assert [known.yarn(context) for context in (65536, 65537)] == [Yarn(2, 32768), Yarn(3, 32768)]
    long = fit_model("Qwen3-8B", ["Q4_K_M"], GPU, FitOptions(context=65536))
    (row,) = long.rows
    assert row.arguments.endswith(WORDS.format(2))
    assert long.trained_context == 40960
    assert row.max_context is not None
    assert 40960 < row.max_context <= 65536
    assert any("need YaRN, here 2 times 32,768 tokens" in note for note in long.notes)
    assert from_json(json.loads(json.dumps(to_json(long)))) == long
    short = fit_model("Qwen3-8B", ["Q4_K_M"], GPU, FitOptions(context=40960))
    assert "yarn" not in short.rows[0].arguments
    assert short.yarn is None
    figures = (report.rows[0].figures["kv"].bytes / report.context for report in (long, short))
    assert next(figures) == next(figures), "the cache grows with the context alone"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("Qwen3-8B", FitOptions(131073), "40960 tokens, and with YaRN 131072; 131073 is too long"),
        ("Qwen2.5-3B-Instruct", FitOptions(32769), "the model's context is 32768 tokens; 32769 is too long"),
        ("Qwen3.6-27B", FitOptions(300_000), "the model's context is 262144 tokens; 300000 is too long"),
        ("Qwen3-8B", FitOptions(65536, draft="Qwen3-0.6B"), "llama-server would apply to the draft too"),
    ],
)
def test_what_nobody_tested_is_refused(model: str, options: FitOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_model(model, ["Q4_K_M"], GPU, options)


def test_llama_cpp_takes_the_settings_for_a_longer_context(tmp_path: Path) -> None:
    """llama-server cuts a context at the trained length, unless these settings stretch it."""
    export(open_source(presets.builtin_models()["micro"].directory), {"Q8_0": tmp_path / "micro.gguf"}, threads=1)
    with Model(tmp_path / "micro.gguf") as model:
        trained = lib.llama_model_n_ctx_train(model._model)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch = 2 * trained, 32
        params.rope_scaling_type, params.rope_freq_scale, params.yarn_orig_ctx = 2, 1 / 2, trained
        context = lib.llama_init_from_model(model._model, params)
        assert lib.llama_model_n_ctx_train(model._model) == 2 * trained
        lib.llama_free(context)
