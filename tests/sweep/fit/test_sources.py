"""Every kind of model: built-in models, directories, configs, GGUF files, the catalogue, the hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import serve
from tiny_configs import write_config

from converters.errors import InputError
from converters.export import export
from converters.llamacpp.container import uint32
from converters.llamacpp.ghost import ghost
from converters.llamacpp.reader import read_header
from converters.resolver import open_source
from presets import builtin_models
from sweep.commands.fit import fit
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import FitOptions, FitReport
from sweep.fit.hardware import Device

ROOT = Path(__file__).parents[3]
RAM = Device("RAM", "cpu", 64 << 30, 64 << 30, None, True, 0)
OPTIONS = FitOptions(512)
SCRIPT = """
import json, sys
from converters.errors import InputError
from sweep.fit.hardware import Device
from sweep.commands.fit import fit
from sweep.fit.fit_report import FitOptions
ram = Device("RAM", "cpu", 64 << 30, 64 << 30, None, True, 0)
try:
    report = fit(sys.argv[1], sys.argv[2:], [ram], FitOptions(512))
    sizes = {row.variant: [row.file_bytes, row.total_bytes, row.file_exact] for row in report.rows}
    print(json.dumps({"model": report.model, "bytes_read": report.bytes_read, "rows": sizes}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


def ask(endpoint: str, cache: Path, *arguments: str) -> dict[str, Any]:
    """The result of a separate process that uses this hub; the client reads HF_ENDPOINT when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


def local(model: str | Path, *variants: str) -> FitReport:
    return fit_model(str(model), variants, [RAM], OPTIONS)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("exported")
    targets = {quant: directory / f"micro-{quant}.gguf" for quant in ("BF16", "Q4_K_M", "Q2_K")}
    export(open_source(builtin_models()["micro"].directory, "micro"), targets)
    return targets


def test_predicted_sizes_of_a_checkpoints_files_are_exact(exported: dict[str, Path]) -> None:
    report = local("micro", *exported)
    assert {row.variant: row.file_bytes for row in report.rows} == {
        quant: file.stat().st_size for quant, file in exported.items()
    }
    assert all(row.file_exact for row in report.rows)
    assert report.bytes_read is None


def test_a_file_is_its_own_variant_with_the_predicted_figures(exported: dict[str, Path]) -> None:
    (planned,) = local("micro", "Q4_K_M").rows
    (as_file,) = local(exported["Q4_K_M"]).rows
    assert as_file.variant == "gguf:micro-Q4_K_M.gguf"
    assert (as_file.file_bytes, as_file.total_bytes) == (planned.file_bytes, planned.total_bytes)
    both = local("micro", "Q4_K_M", f"gguf:{exported['Q2_K']}")
    assert [row.file_bytes for row in both.rows] == [planned.file_bytes, exported["Q2_K"].stat().st_size]


def test_an_unquantized_file_offers_all_quants(exported: dict[str, Path]) -> None:
    report = local(exported["BF16"])
    assert report.rows[0].variant == "gguf:micro-BF16.gguf"
    sizes = {row.variant: row.total_bytes for row in report.rows}
    assert sizes["BF16"] == report.rows[0].total_bytes
    assert sizes["Q2_K"] == local("micro", "Q2_K").rows[0].total_bytes


def test_a_config_file_and_its_directory_are_the_same_model(tmp_path: Path) -> None:
    directory = write_config(tmp_path / "tiny", "qwen35moe")
    first, second = local(directory, "Q4_K_M"), local(directory / "config.json", "Q4_K_M")
    assert first.rows == second.rows
    assert not first.rows[0].file_exact


def test_only_the_config_of_a_hub_model_is_read(tmp_path: Path) -> None:
    directory = write_config(tmp_path / "tiny", "qwen3")
    (directory / "model.safetensors").write_bytes(b"x" * 1_000_000)
    (directory / "tokenizer.json").write_bytes(b"x" * 1_000_000)
    with serve({"org/tiny": directory}) as hub:
        answer = ask(hub.url, tmp_path / "cache", "org/tiny", "Q4_K_M")
        assert answer["bytes_read"] == hub.sent == (directory / "config.json").stat().st_size
        again = ask(hub.url, tmp_path / "cache", "org/tiny", "Q4_K_M")
        assert again["bytes_read"] == 0
    offline = ask("http://127.0.0.1:9", tmp_path / "cache", "org/tiny", "Q4_K_M")
    (row,) = local(write_config(tmp_path / "same" / "tiny", "qwen3"), "Q4_K_M").rows
    for one in (answer, again, offline):
        assert one["rows"] == {"Q4_K_M": [row.file_bytes, row.total_bytes, False]}


@pytest.mark.parametrize("layers", [0, 1])
def test_the_index_of_the_weights_decides_the_number_of_mtp_layers(tmp_path: Path, layers: int) -> None:
    directory = write_config(tmp_path / "tiny", "qwen35", mtp_num_hidden_layers=1)
    names = ["model.norm.weight", *[f"mtp.layers.{index}.input_layernorm.weight" for index in range(layers)]]
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "a")}))
    with serve({"org/tiny": directory}) as hub:
        answer = ask(hub.url, tmp_path / "cache", "org/tiny", "Q4_K_M")
        assert answer["bytes_read"] == hub.sent
    write_config(tmp_path / "other", "qwen35", mtp_num_hidden_layers=layers)
    assert answer["rows"]["Q4_K_M"][0] == local(tmp_path / "other", "Q4_K_M").rows[0].file_bytes


def test_only_the_header_of_a_remote_file_is_read(tmp_path: Path, exported: dict[str, Path]) -> None:
    directory = tmp_path / "repository"
    directory.mkdir()
    shutil.copy(exported["Q4_K_M"], directory / "big-Q4_K_M.gguf")
    with serve({"org/files": directory}) as hub:
        answer = ask(hub.url, tmp_path / "cache", "hub:org/files/big-Q4_K_M.gguf")
        assert answer["bytes_read"] == hub.sent
        assert hub.sent < 1 << 21 < exported["Q4_K_M"].stat().st_size
    (row,) = local(exported["Q4_K_M"]).rows
    assert answer["rows"] == {"hub:big-Q4_K_M.gguf": [row.file_bytes, row.total_bytes, True]}


def test_an_unreachable_hub_or_an_unknown_model_gives_one_line(tmp_path: Path) -> None:
    absent = ask("http://127.0.0.1:9", tmp_path / "cache", "org/tiny")
    assert "cannot be reached" in absent["error"]
    with serve({}) as hub:
        for model in ("org/tiny", "hub:org/tiny/x.gguf"):
            error = ask(hub.url, tmp_path / "cache", model)["error"]
            assert "no such model" in error
            assert "\n" not in error


def test_an_untrusted_model_is_computed_in_a_worker_with_the_same_result(exported: dict[str, Path]) -> None:
    assert fit(str(exported["Q2_K"]), [], [RAM], OPTIONS) == local(exported["Q2_K"])
    with pytest.raises(InputError, match="no such file"):
        fit("micro", ["gguf:nowhere.gguf"], [RAM], OPTIONS)


def test_the_death_of_that_worker_gives_one_line(exported: dict[str, Path], tmp_path: Path) -> None:
    header = read_header(exported["Q4_K_M"])
    # More rotated dimensions than a head has: llama.cpp finds that out when it builds its graph, and aborts.
    metadata = {**header.metadata, "qwen3.rope.dimension_count": uint32(9999)}
    with ghost(metadata, header.tensors) as path, pytest.raises(InputError, match="the worker died") as error:
        fit(str(path), [], [RAM], OPTIONS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", ["Qwen3-5B", "nothing", "hub:nothing"])
def test_an_unknown_model_is_rejected_with_one_line(model: str) -> None:
    with pytest.raises(InputError) as error:
        local(model)
    assert "\n" not in str(error.value)


def test_a_config_of_another_family_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 64}))
    with pytest.raises(InputError, match=r"config\.json"):
        local(tmp_path)


def test_a_truncated_file_is_rejected(tmp_path: Path, exported: dict[str, Path]) -> None:
    file = tmp_path / "short.gguf"
    file.write_bytes(exported["Q4_K_M"].read_bytes()[:-4096])
    with pytest.raises(InputError, match="truncated"):
        local(file)
