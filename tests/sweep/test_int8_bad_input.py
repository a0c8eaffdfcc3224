"""Models, texts and recipes that `sweep int8` rejects: one line that says what is wrong and where, and the exit
code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import call as sweep
from safetensors.torch import load_file, save_file

import presets
from converters.errors import MissingRuntime
from sweep.backends.torch_checkpoints import open_int8

MICRO = presets.builtin_models()["micro"]


def file(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """The built-in model with one channel of its second MLP beyond the range of float32."""
    directory = Path(shutil.copytree(MICRO.directory, tmp_path / "overflowing"))
    weights = load_file(directory / "model.safetensors")
    for name in ("gate_proj", "up_proj"):
        weights[f"model.layers.1.mlp.{name}.weight"][3] = 1e38
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(MICRO.directory, tmp_path / "quantized"))
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def error_line(tmp_path: Path, *arguments: object) -> str:
    """The only line on stderr of a command that ends before it writes a file."""
    done = sweep(*arguments, "--workspace", tmp_path / "workspace")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "workspace" / "sweep.db").exists()
    return line


RECIPES = [("alpha = 1.5", "'alpha' is 1.5; it must be from 0 to 1"), ("alhpa = 0.5", "unknown key 'alhpa'; did you")]


@pytest.mark.parametrize(("content", "message"), RECIPES)
@pytest.mark.parametrize("command", [pytest.param("int8", marks=pytest.mark.slow), "int8:", "fq:"])
def test_a_wrong_recipe_is_rejected(tmp_path: Path, command: str, content: str, message: str) -> None:
    recipe = file(tmp_path / "mine.toml", content)
    if command == "int8":
        line = error_line(tmp_path, "int8", "micro", "--recipe", recipe, "--out", tmp_path / "out")
    else:
        line = error_line(tmp_path, "run", "micro", "--variants", f"={command}{recipe}", "--tasks", "none")
    assert line.startswith(f"sweep: {recipe}: {message}")


@pytest.mark.slow
def test_a_text_that_is_too_short_is_rejected(tmp_path: Path) -> None:
    short = file(tmp_path / "short.txt", "too short")
    message = (
        "short.txt: too short to calibrate with: its 5 tokens give 0 samples of 256,"
        " but at least 2048 tokens are needed"
    )
    given = ("--calibration", short)
    assert (
        error_line(tmp_path, "int8", "micro", "--recipe", "sq", *given, "--out", tmp_path / "out")
        == f"sweep: {message}"
    )
    text = file(tmp_path / "text.txt", MICRO.text.read_text()[:6000])
    workspace = tmp_path / "workspace"
    options = ("--perplexity", text, "--tasks", "none", "--workspace", workspace)
    done = sweep("run", "micro", "--variants", "=int8:sq,Q8_0", *options, *given)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == f"sweep: {message}"
    assert not [path for path in workspace.rglob("*") if path.suffix in (".gguf", ".int8", ".logprobs")]
    # a recipe without calibration accepts the model
    done = sweep("run", "micro", "--variants", "=int8:w8a16", *options, *given)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_quantized_checkpoint_is_rejected(tmp_path: Path, quantized: Path) -> None:
    line = error_line(tmp_path, "int8", quantized, "--recipe", "w8a16", "--out", tmp_path / "out")
    assert line == (
        f"sweep: {quantized / 'config.json'}: the checkpoint is already quantized (compressed-tensors);"
        " give the original checkpoint"
    )
    line = error_line(tmp_path, "run", quantized, "--variants", "=int8:w8a16", "--tasks", "none")
    assert line.startswith(f"sweep: {quantized / 'config.json'}: the checkpoint is quantized by compressed-tensors")


def test_activations_that_overflow_are_named_by_layer(tmp_path: Path, overflowing: Path) -> None:
    options = ("--calibration", "micro", "--samples", "2", "--length", "32", "--out", tmp_path / "out")
    line = error_line(tmp_path, "int8", overflowing, "--recipe", "sq", *options)
    assert line == (
        "sweep: model.layers.1.mlp.up_proj: its activations are NaN or infinite; the checkpoint is damaged, or"
        " overflows in its dtype"
    )


@pytest.mark.slow
def test_activations_that_overflow_fail_the_variant_in_a_sweep(tmp_path: Path, overflowing: Path) -> None:
    text = file(tmp_path / "text.txt", MICRO.text.read_text()[:6000])
    options = ("--variants", "=int8:sq", "--perplexity", text, "--tasks", "none", "--workspace", tmp_path / "workspace")
    done = sweep("run", overflowing, *options, "--calibration", MICRO.calibration)
    assert done.returncode == 1, done.stderr
    failed = [line for line in done.stderr.splitlines() if line.startswith("int8:sq/quantize failed: ")]
    assert len(failed) == 1, done.stderr
    assert "model.layers.1.mlp.up_proj: its activations are NaN or infinite" in failed[0]


def test_a_gpu_without_int8_is_rejected_before_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce GTX 1080")
    with pytest.raises(MissingRuntime, match=r"GeForce GTX 1080: compute capability 6\.1 has no int8 matrix units"):
        open_int8(tmp_path / "nothing is here", "cuda")
