"""The commands for a variant before a run, which must work as they are typed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fit_reports import row

from sweep.analysis.candidate import Commands
from sweep.analysis.fit_commands import fit_commands
from sweep.fit.fit_report import FitRow
from sweep.fit.hardware import parse_devices


def placed(variant: str, arguments: str) -> FitRow:
    return replace(row(variant, 5.0, 4.9, parse_devices(["RTX 3090"])), arguments=arguments)


FROM_HUB = "llama-server -hf unsloth/Qwen3-8B-GGUF --hf-file UD/Q4.gguf --no-mmproj -c 8192"


@pytest.mark.parametrize(
    ("variant", "model", "expected"),
    [
        # Of a public model, the exporter takes the hub id.
        (
            "Q4_K_M",
            "Qwen3-14B",
            Commands("llama-server -m a.gguf -c 8192", "sweep convert Qwen/Qwen3-14B --to Q4_K_M"),
        ),
        (
            "Q4_K_M",
            "my models/a",
            Commands("llama-server -m a.gguf -c 8192", "sweep convert 'my models/a' --to Q4_K_M"),
        ),
        ("Q8_0", "a", Commands("llama-server -m 'runs/a b.gguf' -c 8192")),  # a run made it
        ("gguf:a.gguf", "/m/a.gguf", Commands("llama-server -m a.gguf -c 8192")),
        # llama-server downloads exactly this file, without a vision projector, whose memory was not counted.
        ("hub:unsloth/Qwen3-8B-GGUF/UD/Q4.gguf", "Qwen3-8B", Commands(FROM_HUB)),
        ("hub:Q4.gguf", "hub:unsloth/Qwen3-8B-GGUF/UD/Q4.gguf", Commands(FROM_HUB)),
        # It cannot take an older revision.
        (
            "hub:a/b@v1/m-00001-of-00002.gguf",
            "Qwen3-8B",
            Commands(
                "llama-server -m m-00001-of-00002.gguf -c 8192",
                "hf download a/b m-00001-of-00002.gguf m-00002-of-00002.gguf --revision v1 --local-dir .",
            ),
        ),
    ],
)
def test_commands_by_where_the_file_is(variant: str, model: str, expected: Commands) -> None:
    assert fit_commands(placed(variant, "-m a.gguf -c 8192"), model, {"Q8_0": "runs/a b.gguf"}, 8192) == expected


def test_an_int8_variant_is_written_and_served_by_vllm() -> None:
    int8 = replace(placed("int8:sq", ""), kind="int8", recipe="sq", weight_types=None)
    assert fit_commands(int8, "Qwen3-14B", {}, 4096) == Commands(
        "vllm serve ./Qwen3-14B-sq --max-model-len 4096",
        "sweep int8 Qwen/Qwen3-14B --recipe sq --out ./Qwen3-14B-sq",
    )
    assert fit_commands(int8, "my models/a", {}, 4096).get == "sweep int8 'my models/a' --recipe sq --out ./a-sq"
    elsewhere = fit_commands(int8, "a", {}, 4096, ("--workspace", "/w"))
    assert elsewhere.get == "sweep int8 a --recipe sq --out ./a-sq --workspace /w"
    own_recipe = replace(int8, recipe=None)
    assert fit_commands(own_recipe, "a", {}, 4096) == Commands()
