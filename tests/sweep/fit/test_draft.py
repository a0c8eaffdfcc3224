"""Figures with a draft (speculative decoding) equal those of llama.cpp when it really makes both contexts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import call
from real_load import ROUNDING, real_allocation
from test_against_real_loads import PARTS, RAM, files_of, gpu, load_options
from tiny_configs import write_config

from converters.errors import InputError
from converters.llamacpp import rpc
from converters.llamacpp.load import LoadOptions
from sweep.fit.contexts import context_options
from sweep.fit.draft import MODEL_DRAFT, MODEL_WITH_MTP, MTP_DRAFT, draft_options
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import MTP, FitOptions, FitRow, Verdict, from_json, mtp_note, to_json, verdict
from sweep.fit.hardware import parse_devices
from sweep.format import size

WITH_MTP = ("qwen35", "qwen35moe")
OPTIONS = [
    FitOptions(4096, draft=MTP),
    FitOptions(1000, kv_type_k="q8_0", kv_type_v="q8_0", ubatch=128, draft=MTP),
    FitOptions(2048, parallel=4, draft=MTP),
    FitOptions(8192, flash_attention=False, ubatch=64, draft=MTP),
]


def both(options: FitOptions) -> list[object]:
    """llama.cpp's options of the model's context and of the one that drafts on its layers."""
    return [
        context_options(options, options.context, options.parallel, MODEL_WITH_MTP),
        context_options(draft_options(options), options.context, options.parallel, MTP_DRAFT),
    ]


def drafted(row: FitRow, part: str) -> int:
    assert row.draft is not None
    return int(getattr(row.draft, f"{part}_bytes"))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("architecture", WITH_MTP)
def test_both_contexts_in_ram_equal_those_of_a_real_load(
    architecture: str, options: FitOptions, tmp_path: Path
) -> None:
    directory = write_config(tmp_path / "model", architecture)
    (row,) = fit_model(str(directory), ["Q4_K_M"], [RAM], options).rows
    with files_of(directory, "Q4_K_M") as path:
        real = real_allocation(path, LoadOptions(mtp=True), both(options))  # type: ignore[arg-type]
        alone = real_allocation(path, LoadOptions(), context_options(replace(options, draft=""), options.context, 1))
    for part, kind in PARTS.items():
        found = row.figures[part].bytes + drafted(row, part)
        assert found == pytest.approx(real["CPU", kind], abs=2 * ROUNDING), part
    assert row.figures["weights"].bytes + drafted(row, "weights") == pytest.approx(
        real["CPU", "model"], abs=4 * ROUNDING
    )
    assert drafted(row, "weights") == pytest.approx(real["CPU", "model"] - alone["CPU", "model"], abs=4 * ROUNDING)
    assert row.figures["draft"].bytes == sum(drafted(row, part) for part in (*PARTS, "weights"))
    assert row.total_bytes == sum(row.figures[part].bytes for part in (*PARTS, "weights", "draft"))
    assert real["CPU", "RS"] == pytest.approx(4 * alone["CPU", "RS"] * options.parallel, abs=8 * ROUNDING)


@pytest.mark.skipif(not rpc.supported(), reason="this build of llama.cpp has no RPC")
@pytest.mark.parametrize("sizes", [(400.0,), (400.0, 400.0), (60.0, 60.0), (57.0,)], ids=str)
@pytest.mark.parametrize("architecture", WITH_MTP)
def test_both_contexts_on_every_device_equal_those_of_a_real_load(
    architecture: str, sizes: tuple[float, ...], tmp_path: Path
) -> None:
    options = FitOptions(2048, ubatch=128, draft=MTP)
    directory = write_config(tmp_path / "model", architecture, vocab_size=65536)
    devices = [gpu(size, index) for index, size in enumerate(sizes)]
    (row,) = fit_model(str(directory), ["Q4_K_M"], devices, options).rows
    assert row.arguments.endswith(" --spec-type draft-mtp")
    with files_of(directory, "Q4_K_M") as path, rpc.simulated_devices(len(sizes)) as remote:
        load = replace(load_options(row), mtp=True)
        real = real_allocation(path, load, both(options), remote)  # type: ignore[arg-type]
    _check_shares(row, real, [device.buffer for device in remote])


def _check_shares(row: FitRow, real: dict[tuple[str, str], int], buffers: list[str]) -> None:
    for place, share in zip([*buffers, "CPU"], row.shares, strict=True):
        assert share.kv_bytes == pytest.approx(real[place, "KV"], abs=2 * ROUNDING), place
        assert share.recurrent_bytes == pytest.approx(real[place, "RS"], abs=2 * ROUNDING), place
        assert share.weights_bytes == pytest.approx(real[place, "model"], abs=6 * ROUNDING), place
        assert share.output_bytes == pytest.approx(real[place, "output"], abs=2 * ROUNDING), place
        assert real[place, "compute"] <= 4 * ROUNDING + share.compute_bytes, place


@pytest.mark.skipif(not rpc.supported(), reason="this build of llama.cpp has no RPC")
@pytest.mark.parametrize("sizes", [(), (400.0,), (400.0, 400.0)], ids=str)
def test_a_second_model_equals_that_of_a_real_load(sizes: tuple[float, ...], tmp_path: Path) -> None:
    options = FitOptions(2048, kv_type_k="q8_0", kv_type_v="q8_0", ubatch=128)
    directory = write_config(tmp_path / "model", "qwen35", vocab_size=65536)
    small = write_config(tmp_path / "small", "qwen3", vocab_size=65536)
    devices = [gpu(size, index) for index, size in enumerate(sizes)] or [RAM]
    report = fit_model(str(directory), ["Q4_K_M"], devices, replace(options, draft=str(small)))
    (row,) = report.rows
    assert report.draft == "small Q8_0"
    assert row.arguments.endswith(" -md small-Q8_0.gguf --spec-type draft-simple")
    count = len(sizes)
    with (
        files_of(directory, "Q4_K_M") as path,
        files_of(small, "Q8_0") as draft_path,
        rpc.simulated_devices(max(count, 1)) as remote,
    ):
        used = remote[:count]
        load = load_options(row) if sizes else LoadOptions()
        real = real_allocation(path, load, context_options(options, options.context, 1), used)
        # llama-server loads the draft with all layers, divided as the model
        own = LoadOptions(99, tensor_split=load.tensor_split) if sizes else LoadOptions()
        role = context_options(draft_options(options), options.context, 1, MODEL_DRAFT)
        alone = real_allocation(draft_path, own, role, used)
    for part, kind in (*PARTS.items(), ("weights", "model")):
        kinds = [size for (_, name), size in alone.items() if name == kind]
        if part == "compute" and count > 1:  # as with one context: that of a placement of the same kind, not smaller
            assert drafted(row, part) >= sum(kinds) - 4 * ROUNDING
        else:
            assert drafted(row, part) == pytest.approx(sum(kinds), abs=4 * ROUNDING), part
    _check_shares(row, real + alone, [device.buffer for device in used])


@pytest.mark.slow
def test_a_published_model_that_fits_does_not_fit_with_its_own_draft() -> None:
    """The weights of the draft and its KV cache are the known ones: one layer of 4 heads of 256, for K and V in f16."""
    devices = parse_devices(["RTX 4090"])
    (alone,) = fit_model("Qwen3.6-27B", ["Q5_K_M"], devices, FitOptions(65536)).rows
    (row,) = fit_model("Qwen3.6-27B", ["Q5_K_M"], devices, FitOptions(65536, draft=MTP)).rows
    assert verdict(alone) is Verdict.FITS
    assert verdict(row) is not Verdict.FITS
    assert row.draft is not None
    assert row.draft.weights_bytes == alone.mtp_bytes > 0
    assert row.draft.kv_bytes == 65536 * 4 * (256 + 256) * 2
    assert row.figures["recurrent"].bytes == 4 * alone.figures["recurrent"].bytes
    assert row.max_context is not None
    assert alone.max_context is not None
    assert row.max_context < 65536 <= alone.max_context
    assert row.decode_bound is None


def test_what_is_not_counted_is_said_of_every_such_row() -> None:
    report = fit_model("Qwen3.5-0.8B", ["Q5_K_M", "Q4_K_M", "int8:sq"], parse_devices(["RTX 4090"]), FitOptions(1024))
    rows = to_json(report)["rows"]
    assert [row["mtp_bytes"] > 0 for row in rows] == [True, True, False]
    assert [row["note"] is not None and "--draft mtp" in row["note"] for row in rows] == [True, True, False]
    assert from_json(json.loads(json.dumps(to_json(report)))) == report
    printed = call("fit", "Qwen3.5-0.8B", "--gpu", "RTX 4090", "--variants", "Q5_K_M,int8:sq", "--ctx", 1024).stdout
    assert [line.rstrip()[-5:] for line in printed.splitlines() if "Q5_K_M" in line][:1] == ["fits*"]
    weights = size(rows[0]["mtp_bytes"])
    assert f"* without speculative decoding: the weights for multi-token prediction ({weights})" in printed
    counted = fit_model("Qwen3.5-0.8B", ["Q5_K_M"], parse_devices(["RTX 4090"]), FitOptions(1024, draft=MTP))
    assert mtp_note(counted.rows) is None
    assert from_json(json.loads(json.dumps(to_json(counted)))) == counted
    assert mtp_note(fit_model("micro", ["Q5_K_M"], [RAM], FitOptions()).rows) is None


@pytest.mark.parametrize(
    ("model", "variants", "draft", "message"),
    [
        ("micro", ["Q8_0"], MTP, "micro: this model has no layers for multi-token prediction"),
        ("Qwen3-4B", ["Q8_0"], "micro", "micro: a draft of 1536 tokens for a model of 151936"),
        ("micro", ["Q8_0", "int8:sq"], "micro", "int8:sq: only GGUF variants run with a draft"),
        ("micro", ["Q8_0"], "no-such-model", "no-such-model"),
    ],
)
def test_a_draft_that_cannot_run_is_rejected(model: str, variants: list[str], draft: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_model(model, variants, [RAM], FitOptions(draft=draft))


def test_without_names_only_variants_that_have_a_draft_are_reported() -> None:
    ended = call("fit", "micro", "--draft", "micro", "--format", "json")
    assert ended.returncode == 0
    report = from_json(json.loads(ended.stdout))
    assert {row.kind for row in report.rows} == {"gguf"}
    assert report.draft == "micro Q8_0"
