"""`sweep int8`: it writes a directory that loads, or prints one line about the error and leaves no file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import COMMAND, call

import presets
from converters.errors import InputError, MissingRuntime
from int8.checkpoint import load
from int8.recipe import NAMED
from sweep.artefact import Artefact
from sweep.backends.torch import TorchBackend
from sweep.commands.int8 import Int8Request, quantize
from sweep.jobs.base import Site
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.settings import ComputeResources
from sweep.measure.perplexity import cut_windows
from sweep.measure.text_measurement import measure_text
from sweep.workspace import sharing

MICRO = presets.builtin_models()["micro"]


def request(tmp_path: Path, **changes: object) -> Int8Request:
    request = Int8Request("micro", "sq", tmp_path / "out", samples=4, length=32, workspace=tmp_path / "workspace")
    return replace(request, **changes)  # type: ignore[arg-type]


def test_a_written_checkpoint_can_be_measured_like_any_model(tmp_path: Path) -> None:
    """From the command line to perplexity through the torch backend, without the original checkpoint."""
    from transformers import AutoTokenizer

    out, workspace = tmp_path / "deep" / "out", tmp_path / "workspace"
    arguments = ["micro", "--recipe", "sq-ph", "--out", out, "--samples", "16", "--length", "64", "--format", "json"]
    done = call("int8", *arguments, "--workspace", workspace)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    finished = json.loads(done.stdout.splitlines()[-1])
    assert finished["event"] == "finished"
    assert finished["calibration"] == {"text": "micro's own text", "samples": 16, "length": 64}
    assert finished["recipe"]["alpha"] == 0.65
    model, recipe = load(out)
    assert recipe.to_json() == finished["recipe"]
    ours = TorchBackend(model, AutoTokenizer.from_pretrained(out))
    float_one = TorchBackend.open(MICRO.directory)
    text = MICRO.text.read_text(encoding="utf-8")
    windows = cut_windows(ours, text, n_ctx=128, max_windows=4)
    perplexity = {
        name: measure_text(backend, windows).perplexity.value
        for name, backend in (("int8", ours), ("float", float_one))
    }
    assert perplexity["int8"] == pytest.approx(perplexity["float"], rel=0.05)
    assert perplexity["int8"] != perplexity["float"]


def test_a_sweep_that_ends_meanwhile_removes_no_file_in_use(tmp_path: Path) -> None:
    """A sweep removes partly written files only if no other process uses the model's artefacts."""
    held: list[bool] = []

    def look(*_: int) -> None:
        (lock,) = (tmp_path / "workspace" / "artefacts").glob("*.lock")
        half = lock.with_suffix("") / ".of another.1.part"
        half.touch()
        with sharing(lock.with_suffix("")):
            pass
        held.append(half.exists())

    quantize(request(tmp_path), lambda _: None, look)
    assert held
    assert all(held)
    assert not list((tmp_path / "workspace").rglob(".*.part"))


def test_partly_written_statistics_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for folder in (tmp_path / "artefacts", tmp_path / "artefacts" / "bfloat16"):
        folder.mkdir()
        (folder / ".ranges-1.safetensors.7.part").touch()
        (folder / "ranges-1.safetensors").touch()
    with sharing(tmp_path / "artefacts"):
        left = [str(path.relative_to(tmp_path)) for path in (tmp_path / "artefacts").rglob("*") if path.is_file()]
    assert sorted(left) == ["artefacts/bfloat16/ranges-1.safetensors", "artefacts/ranges-1.safetensors"]


def test_a_checkpoint_that_another_run_made_is_reused(tmp_path: Path) -> None:
    """The other run may be reading it, so it is neither removed nor made again."""
    job = Int8CheckpointJob(Artefact.of(MICRO.directory), "micro", NAMED["w8a16"], "made", "f", "e")
    site = Site(tmp_path, ComputeResources(1, {"torch": "cpu"}))
    made, directory = job.run(site), job.output.under(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert job.run(site) == made
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_a_second_quantization_reuses_the_statistics(tmp_path: Path) -> None:
    steps: list[int] = []
    for name in ("first", "second"):
        steps.append(0)
        quantize(request(tmp_path, out=tmp_path / name), print, lambda *_: steps.append(steps.pop() + 1))
    assert steps[0] > 0
    assert steps[1] == 0
    assert (tmp_path / "first" / "model-00001-of-00001.safetensors").read_bytes() == (
        tmp_path / "second" / "model-00001-of-00001.safetensors"
    ).read_bytes()


def test_text_and_recipe_can_be_files(tmp_path: Path) -> None:
    text, recipe = tmp_path / "mine.txt", tmp_path / "mine.toml"
    text.write_text("Mara counted seven boats and three gulls. " * 200)
    recipe.write_text('base = "sq-ph"\nalpha = 0.4\nkeep = ["lm_head", "*.down_proj"]\n')
    done = quantize(request(tmp_path, calibration=str(text), recipe=str(recipe)), print, lambda *_: None)
    assert done.calibration.text == "mine.txt"
    model, known = load(done.path)
    assert known.alpha == 0.4
    assert isinstance(model.model.layers[0].mlp.down_proj, torch.nn.Linear)


def test_the_tokens_of_each_expert_are_reported(tmp_path: Path) -> None:
    done = quantize(request(tmp_path, model="micro-moe"), print, lambda *_: None)
    assert [row[:2] for row in done.experts] == [(str(i), 6) for i in range(4)]
    assert sum((done.calibration.expert_tokens or {}).values()) == 4 * 2 * 4 * 32  # layers, experts per token, tokens


def damaged(tmp_path: Path, **changes: object) -> str:
    directory = Path(shutil.copytree(MICRO.directory, tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    return str(directory)


def test_bad_input_gives_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    short, no_text, recipe = tmp_path / "short.txt", tmp_path / "bytes.txt", tmp_path / "bad.toml"
    short.write_text("too short")
    no_text.write_bytes(b"\xff\xfe\x00")
    recipe.write_text("alpha = 2")
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    (tmp_path / "empty").mkdir()
    cases = [
        ({"recipe": "sq-p"}, "there is no recipe"),
        ({"recipe": str(recipe)}, r"bad\.toml: 'alpha' is 2"),
        ({"model": str(gguf)}, "give its directory"),
        ({"model": str(tmp_path / "empty")}, r"has no config\.json"),
        ({"model": damaged(tmp_path / "a", quantization_config={"quant_method": "fp8"})}, r"already quantized \(fp8\)"),
        (
            {"model": damaged(tmp_path / "b", model_type="mistral", architectures=["MistralForCausalLM"])},
            r"config\.json: .*'mistral'",
        ),
        ({"calibration": str(short), "samples": None}, r"short\.txt: too short"),
        ({"samples": 100_000}, "too short for 100000 samples"),
        ({"calibration": str(no_text)}, "not UTF-8"),
        ({"calibration": "wikitext2"}, "wikitext-2"),
        ({"device": "gpu"}, "'gpu' is not a device"),
        ({"out": short}, "exists already"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            quantize(request(tmp_path, **changes), print, lambda *_: None)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingRuntime, match="cuda"):
        quantize(request(tmp_path, device="cuda"), print, lambda *_: None)


@pytest.mark.slow  # waits until the process is calibrating
def test_an_interrupt_leaves_no_directory_under_the_final_name(tmp_path: Path) -> None:
    out, workspace = tmp_path / "out", tmp_path / "workspace"
    arguments = ["micro", "--recipe", "sq", "--out", str(out), "--workspace", str(workspace)]
    child = subprocess.Popen(
        [*COMMAND, "int8", *arguments], stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not workspace.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    child.send_signal(signal.SIGINT)
    _, message = child.communicate(timeout=120)
    assert child.returncode == 130, message
    assert "interrupted" in message
    assert "Traceback" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]
