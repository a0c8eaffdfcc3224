"""`sweep convert --mmproj`: projector files beside the files of the text model."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest
import torch
from checkpoints import make_tokenizer
from command_line import call

import presets
from converters.llamacpp.reader import read_header


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model") / "vl"
    families.make_with_tower("qwen3vl", directory, dtype=torch.bfloat16)
    make_tokenizer(directory)
    return directory


def test_text_and_projector_files_are_as_the_dry_run_predicted(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    arguments = ("convert", model, "--to", "Q8_0", "--mmproj", "f16,Q8_0", "--out", out, "--format", "json")
    predicted = json.loads(call(*arguments, "--dry-run").stdout)
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    finished = json.loads(done.stdout.splitlines()[-1])
    for key in ("files", "projectors"):
        assert finished[key] == predicted[key]
    assert [Path(file["path"]).name for file in finished["projectors"]] == [
        "mmproj-vl-F16.gguf", "mmproj-vl-Q8_0.gguf",
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["mmproj-vl-F16.gguf", "mmproj-vl-Q8_0.gguf", "vl-Q8_0.gguf"]
    for file in finished["projectors"]:
        assert Path(file["path"]).stat().st_size == file["file_bytes"]
        assert sum(file["census"].values()) == len(read_header(Path(file["path"])).tensors)
    # Blocks of Q8_0 need rows of 32 weights; the feed-forward's have 100.
    assert finished["projectors"][1]["census"]["F16"] == 3
    table = call(*arguments[:-2], "--format", "human")  # its own files are not an obstacle
    assert table.returncode == 0
    assert "15 Q8_0, 3 F16" in table.stdout


def test_a_projector_file_alone_needs_no_quant_of_the_text_model(model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "vl"  # without a tokenizer
    bare.mkdir()
    for file in model.iterdir():
        if not file.name.startswith("tokenizer"):
            (bare / file.name).symlink_to(file)
    model, tmp_path = bare, tmp_path / "new"
    done = call("convert", model, "--mmproj", "BF16", "--memory-budget", "2GiB", "--out", tmp_path, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mmproj-vl-BF16.gguf"]
    (tmp_path / "mmproj-vl-BF16.gguf").write_bytes(b"theirs")
    refused = call("convert", model, "--mmproj", "BF16", "--out", tmp_path)
    assert refused.returncode == 2
    assert "a file with other content exists" in refused.stderr


def test_a_public_models_projector_file_is_sized_without_a_download() -> None:
    """Closed form, by the shapes in the config of Qwen3-VL-4B: a projector and three deepstack mergers."""
    width, inner, out, blocks, mergers = 1024, 4096, 2560, 24, 4
    linear = blocks * (4 * width**2 + 2 * width * inner) + mergers * (16 * width**2 + 4 * width * out)
    patches, positions = 2 * 3 * 16 * 16 * width, 48 * 48 * width
    vectors = width + blocks * (9 * width + inner) + mergers * (4 * width + out) + 2 * width + 3 * 8 * width
    done = call("convert", "Qwen3-VL-4B-Instruct", "--mmproj", "F16,Q8_0", "--dry-run", "--format", "json")
    found = {file["quant"]: file["tensor_bytes"] for file in json.loads(done.stdout)["projectors"]}
    assert found == {
        "F16": 2 * (linear + patches) + 4 * (positions + vectors),
        "Q8_0": linear // 32 * 34 + 4 * (patches + positions + vectors),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("MODEL",), "--to names no quant"),
        (("MODEL", "--mmproj", "Q9"), "'Q9' is not a type of projector files; give one of F32, F16"),
        (("MODEL", "--to", "Q8_0", "--mmproj", "Q4_K_XL"), "'Q4_K_XL' is not a type of projector files"),
        (("MODEL", "--mmproj", "F16", "--split-max-size", "1G"), "--split-max-size: only GGUF quants use it"),
        (("micro", "--to", "Q8_0", "--mmproj", "F16"), "has no vision_config, so it is a text model"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_no_file(
    model: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [str(model) if argument == "MODEL" else argument for argument in arguments]
    done = call("convert", *given, "--out", tmp_path / "new")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_without_its_tower_is_rejected_before_work(tmp_path: Path) -> None:
    """The config of a text model with a vision_config, as after its tower was removed."""
    directory = tmp_path / "model"
    directory.mkdir()
    micro = presets.builtin_models()["micro"].directory
    for file in micro.iterdir():
        if file.name != "config.json":
            (directory / file.name).symlink_to(file)
    config = json.loads((micro / "config.json").read_text())
    for name, message in (
        ("Qwen3ForCausalLM", "has no vision_config, so it is a text model"),
        ("Qwen3VLForConditionalGeneration", "tensor 'visual.patch_embed.proj.weight' is missing"),
    ):
        vision = {**families.TOWERS["qwen3vl"], "out_hidden_size": config["hidden_size"]}
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4]}
        changed = {**config, "architectures": [name], "vision_config": vision, "rope_parameters": rope}
        (directory / "config.json").write_text(json.dumps(changed))
        done = call("convert", directory, "--to", "Q8_0", "--mmproj", "F16", "--out", tmp_path / "new")
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "new").exists()


def test_a_projector_in_a_quants_name_is_rejected_with_the_option_to_use(model: Path, tmp_path: Path) -> None:
    done = call("convert", model, "--to", "Q8_0+mmproj=q8_0", "--out", tmp_path)
    assert done.returncode == 2
    assert "Q8_0+mmproj=Q8_0: projector files have an option of their own; write --to Q8_0 --mmproj Q8_0" in done.stderr
    assert not list(tmp_path.iterdir())
