"""`sweep convert --to` with variants that torch quantizes: what it writes, resumes, replaces and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint, make_tokenizer
from command_line import call
from families import make
from safetensors.torch import load_file, save_file
from torch import nn

import int8.checkpoint
import ptq.checkpoint
from converters.checkpoint import Checkpoint
from int8.model import load_checkpoint, open_model
from ptq.layer import LayerWork

SMALL = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_hidden_layers": 2, "vocab_size": 512}
TEXT = ("--samples", "4", "--length", "32")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For tiny matrices several threads cost more than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("dense") / "tiny", **SMALL)


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `sweep convert` with --out tmp_path/new and a text to calibrate with."""
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{i % 97} {i * 31 % 11}" for i in range(3000)))

    def run(model: Path | str, to: str, *options: object) -> subprocess.CompletedProcess[str]:
        place = ("--out", tmp_path / "new", "--workspace", tmp_path / "workspace")
        return call("convert", model, "--to", to, "--calibration", text, *place, *options)

    return run


Convert = Callable[..., subprocess.CompletedProcess[str]]


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def bytes_of_tensors(directory: Path) -> int:
    with Checkpoint.open(directory) as checkpoint:
        extra = directory / int8.checkpoint.ATTENTION_FILE
        assert not extra.exists()
        return sum(tensor.nbytes for tensor in checkpoint.tensors.values())


def test_files_and_checkpoints_of_one_list_are_as_the_dry_run_predicted(
    dense: Path, tmp_path: Path, convert: Convert
) -> None:
    arguments = (dense, "BF16,gptq:w4g16,int8:w8a8-dyn", *TEXT, "--format", "json")
    predicted = last_line(convert(*arguments, "--dry-run"))
    assert not (tmp_path / "new").exists()
    finished = last_line(convert(*arguments))
    assert finished["files"] == predicted["files"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "tiny-BF16.gguf", "tiny-gptq-w4g16", "tiny-int8-w8a8-dyn",
    ]  # fmt: skip
    for before, after in zip(predicted["checkpoints"], finished["checkpoints"], strict=True):
        directory = Path(after["path"])
        assert before["path"] == after["path"]
        assert before["file_bytes"] == bytes_of_tensors(directory)
        assert not before["header_exact"]
        assert after["file_bytes"] == sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    gptq, eight = finished["checkpoints"]
    assert (gptq["variant"], eight["variant"]) == ("gptq:w4g16", "int8:w8a8-dyn")
    assert gptq["calibration"] == {"text": "text.txt", "samples": 4, "length": 32}
    assert ptq.checkpoint.load(Path(gptq["path"]))[1].name == "gptq:w4g16"
    config = json.loads((Path(gptq["path"]) / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert int8.checkpoint.load(Path(eight["path"]))[1].name == "w8a8-dyn"


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.data for name, parameter in model.named_parameters()}


def test_dequantized_weights_are_those_of_the_packed_checkpoint(dense: Path, tmp_path: Path, convert: Convert) -> None:
    for options in ((), ("--dequantized",)):
        assert convert(dense, "gptq:w4g16", *TEXT, *options).returncode == 0
    plain = tmp_path / "new" / "tiny-gptq-w4g16-dequantized"
    config = json.loads((plain / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["model_type"] == "qwen3"
    ours = weights(ptq.checkpoint.load(tmp_path / "new" / "tiny-gptq-w4g16")[0])
    theirs, original = weights(load_checkpoint(plain)), weights(load_checkpoint(dense))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert theirs[name].dtype == torch.bfloat16
        assert torch.equal(values, theirs[name]), name
        assert torch.equal(values, original[name]) == ("_proj" not in name), name


@pytest.mark.parametrize("family", ["qwen3moe", "qwen35moe"])
def test_experts_are_dequantized_and_those_with_few_tokens_are_shown(
    family: str, tmp_path: Path, convert: Convert
) -> None:
    model = make(family, tmp_path / "moe", dtype=torch.bfloat16)
    make_tokenizer(model)
    done = convert(model, "hqq:w4g16", "--dequantized", "--format", "json")
    (written,) = last_line(done)["checkpoints"]
    assert written["bits_per_weight"] == 16
    assert written["calibration"]["text"] is None
    plain, original = open_model(Path(written["path"])), open_model(model)
    changed = [name for name, values in weights(plain).items() if not torch.equal(values, weights(original)[name])]
    assert any(".experts." in name for name in changed)
    assert all("_proj" in name or "in_proj" in name for name in changed)
    shown = convert(model, "gptq:w4g16", *TEXT)
    assert shown.returncode == 0, shown.stderr
    assert "gptq:w4g16: calibrated with 4 x 32 tokens of text.txt" in shown.stdout
    header, *rows = shown.stdout.split("text.txt\n")[1].splitlines()
    assert header.split("  ") == ["layer", "experts", "fewest tokens", "most tokens", "under 16 tokens"]
    assert len(rows) == len(original.get_decoder().layers)


def test_a_complete_checkpoint_is_kept_and_another_only_replaced_with_force(
    dense: Path, tmp_path: Path, convert: Convert
) -> None:
    out = tmp_path / "new" / "tiny-gptq-w4g16"
    assert convert(dense, "gptq:w4g16", *TEXT).returncode == 0
    before = (out / "ptq.json").stat().st_mtime_ns
    again = convert(dense, "gptq:w4g16", *TEXT)
    assert (again.returncode, again.stderr) == (0, f"{out}: is complete, from an earlier run\n")
    assert (out / "ptq.json").stat().st_mtime_ns == before
    fewer = (dense, "gptq:w4g16", "--samples", "3", "--length", "32")
    refused = convert(*fewer)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"sweep: {out}: a checkpoint with other content exists; choose another place with --out, or replace it with"
        " --force\n"
    )
    assert convert(*fewer, "--force").returncode == 0
    assert ptq.checkpoint.read_report(out)["calibration"]["samples"] == 3
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    shutil.rmtree(out)
    out.mkdir()
    (out / "thesis.txt").write_text("theirs")
    kept = convert(*fewer, "--force")
    assert kept.returncode == 2
    assert "exists and is not a checkpoint of this kind, so it is not replaced" in kept.stderr
    assert (out / "thesis.txt").read_text() == "theirs"


def test_after_an_interrupt_the_same_command_resumes(
    dense: Path, tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LayerWork.run
    done: list[str] = []

    def interrupted(work: LayerWork) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(work._path)
        return run(work)

    monkeypatch.setattr(LayerWork, "run", interrupted)
    stopped = convert(dense, "rtn:w4,gptq:w4g16", *TEXT)
    assert stopped.returncode == 130
    assert "run the same command again to resume" in stopped.stderr
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [".tiny-gptq-w4g16.partial", "tiny-rtn-w4"]
    done.clear()
    resumed = convert(dense, "rtn:w4,gptq:w4g16", *TEXT)
    assert resumed.returncode == 0, resumed.stderr
    assert done == ["model.layers.1"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["tiny-gptq-w4g16", "tiny-rtn-w4"]


def test_a_checkpoint_that_fails_does_not_keep_the_others_from_being_written(
    dense: Path, tmp_path: Path, convert: Convert
) -> None:
    broken = shutil.copytree(dense, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1e25  # H of the inputs of down_proj overflows
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    done = convert(broken, "gptq:w4g16,rtn:w4g16", *TEXT, "--format", "json")
    assert done.returncode == 1
    finished = json.loads(done.stdout.splitlines()[-1])
    assert [one["variant"] for one in finished["checkpoints"]] == ["rtn:w4g16"]
    assert list(finished["failed"]) == ["gptq:w4g16"]
    assert finished["failed"]["gptq:w4g16"].startswith("model.layers.0.mlp.down_proj: its inputs or their squares")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["broken-rtn-w4g16"]
    alone = convert(broken, "gptq:w4g16", *TEXT)
    assert alone.returncode == 2
    assert alone.stderr.startswith("sweep: model.layers.0.mlp.down_proj: its inputs or their squares are NaN or")


def test_a_full_disk_gives_one_line_and_no_file(
    dense: Path, tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("int8.checkpoint_files.save_file", full)
    done = convert(dense, "rtn:w4", "--dequantized")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot be written: [Errno 28] No space left on device" in line
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("hqq:w4g16", (), "hqq:w4g16: no format of other programs has its float zero points; give --dequantized"),
        ("billm", (), "billm: no format of other programs has its binary weights; give --dequantized"),
        ("rot+gptq:w4", (), "rot+gptq:w4: rotates activations while the model runs"),
        ("rot+rtn:w4", ("--dequantized",), "rot+rtn:w4: rotates activations while the model runs"),
        ("sq:w8a8", ("--dequantized",), "so its weights alone are another model; leave --dequantized or a8 out"),
        ("int8:sq-ph", ("--dequantized",), "int8:sq-ph: --dequantized is for variants such as hqq:w4g64"),
        ("fq:sq-ph", (), "fq:sq-ph: computes with the checkpoint of int8:sq-ph; write that one"),
        ("torch:BF16", (), "torch:BF16: is not made by quantizing a model"),
        ("gptq:w4g48", (), "has 64 inputs, which groups of 48 do not divide"),
        ("gptq:w4g16", ("--samples", "9999"), "text.txt: too short for 9999 samples"),
        ("gptq:w4g16", ("--device", "abacus"), "'abacus' is not a device"),
        ("gptq:w4g16", ("--requantize",), "--requantize: only GGUF quants use it, and --to names none"),
        ("gptq:w4g16", ("--imatrix", "auto"), "--imatrix: only GGUF quants use it, and --to names none"),
        ("int8:none", (), "none"),
        ("wxyz:w4", (), "no variant has the prefix 'wxyz:'"),
    ],
)
def test_bad_input_gives_one_line_before_any_work(
    dense: Path, tmp_path: Path, convert: Convert, to: str, options: tuple[str, ...], message: str
) -> None:
    done = convert(dense, to, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_variants_are_not_made_from_a_gguf_file_and_their_options_need_one(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    done = call("convert", file, "--to", "rtn:w4g128", "--out", tmp_path / "new")
    assert done.returncode == 2
    assert "need a Hugging Face checkpoint; give its directory or hub id" in done.stderr
    for option in ("--samples=4", "--length=32", "--device=cpu", "--dequantized"):
        done = call("convert", "micro", "--to", "Q8_0", option, "--out", tmp_path / "new")
        assert done.returncode == 2
        assert f"{option.partition('=')[0]}: only variants that torch quantizes" in done.stderr
    missing = call("convert", "micro", "--to", "gptq:w4g128", "--calibration", "absent", "--out", tmp_path / "new")
    assert missing.returncode == 2
    assert "absent: there is no such text (--calibration)" in missing.stderr
    assert not (tmp_path / "new").exists()
