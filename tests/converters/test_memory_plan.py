"""Memory predicted without allocating equals what llama.cpp reports when it allocates; plans need no weights."""

import json
from pathlib import Path

import pytest

from converters.errors import InputError
from converters.export import export
from converters.llamacpp.container import data_bytes
from converters.llamacpp.ghost import ghost
from converters.llamacpp.memory import MIB, plan_memory
from converters.llamacpp.model import ContextOptions, Model
from converters.llamacpp.reader import read_header
from converters.plan import plan_export
from converters.resolver import open_source

ROUNDING = 0.01 * MIB * 6  # each of up to six log lines is rounded to 0.01 MiB

OPTIONS = [
    ContextOptions(512),
    ContextOptions(2048, n_seq_max=4),
    ContextOptions(4096, n_seq_max=8, kv_unified=True, n_ubatch=256),
    ContextOptions(512, type_k="q8_0", type_v="q8_0"),
    ContextOptions(1024, type_k="f32", type_v="f32", flash_attn="off"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_real_load_takes_the_predicted_memory(tiny: Path, tmp_path: Path, options: ContextOptions) -> None:
    plan = export(open_source(tiny), {"Q4_K_M": tmp_path / "m.gguf"})["Q4_K_M"]
    predicted = plan_memory(plan.metadata, plan.tensors, options)
    header = read_header(tmp_path / "m.gguf")
    assert predicted == plan_memory(header.metadata, header.tensors, options)
    with Model(tmp_path / "m.gguf") as model:
        assert predicted.weights_bytes == model.size_bytes
        with model.context(options) as context:
            in_context = predicted.total_bytes - predicted.weights_bytes
            assert in_context == pytest.approx(context.allocated_bytes, abs=ROUNDING)
    assert predicted.recurrent_bytes == 0


@pytest.mark.parametrize(("kind", "bytes_per_value"), [("f32", 4), ("f16", 2), ("q8_0", 34 / 32)])
def test_the_predicted_cache_size_follows_the_formula(tiny: Path, kind: str, bytes_per_value: float) -> None:
    config = json.loads((tiny / "config.json").read_text())
    plan = plan_export(open_source(tiny), ["BF16"])["BF16"]
    predicted = plan_memory(plan.metadata, plan.tensors, ContextOptions(1024, type_k=kind, type_v=kind))
    values = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 1024
    assert predicted.kv_bytes == pytest.approx(values * bytes_per_value, abs=ROUNDING)


def test_a_quantized_v_cache_without_flash_attention_is_rejected_in_one_line(tiny: Path) -> None:
    plan = plan_export(open_source(tiny), ["BF16"])["BF16"]
    with pytest.raises(InputError) as error:
        plan_memory(plan.metadata, plan.tensors, ContextOptions(512, type_v="q8_0", flash_attn="off"))
    assert "flash" in str(error.value).lower()
    assert "\n" not in str(error.value)


def test_a_ghost_takes_no_disk_space_and_is_removed(tiny: Path) -> None:
    source = open_source(tiny)
    with ghost(source.metadata, source.tensors) as path:
        assert path.stat().st_size > data_bytes(source.tensors)
        assert path.stat().st_blocks * 512 < 64 * 1024
        assert [tensor.name for tensor in read_header(path).tensors] == [tensor.name for tensor in source.tensors]
    assert not path.exists()
    assert not path.parent.exists()
