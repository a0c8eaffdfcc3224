"""`sweep convert`: it writes the files that it predicted, and after any error there is no file under a final name."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, call
from gguf_files import rewrite

import presets
from converters.export import export, open_source
from converters.llamacpp.reader import read_header

MICRO = presets.builtin_models()["micro"].directory


def convert(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return call("convert", *arguments)


def test_the_files_are_as_the_dry_run_predicted(tmp_path: Path) -> None:
    arguments = ("micro", "--to", "Q2_K_XL,q4_k_m,BF16", "--out", tmp_path / "new", "--format", "json")
    predicted = json.loads(convert(*arguments, "--dry-run").stdout)
    assert not (tmp_path / "new").exists()
    done = convert(*arguments)
    assert done.returncode == 0, done.stderr
    finished = json.loads(done.stdout.splitlines()[-1])
    assert finished["files"] == predicted["files"]
    assert [file["quant"] for file in finished["files"]] == ["Q2_K_XL", "Q4_K_M", "BF16"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "micro-BF16.gguf", "micro-Q2_K_XL.gguf", "micro-Q4_K_M.gguf",
    ]  # fmt: skip
    for file in finished["files"]:
        header = read_header(Path(file["path"]))
        assert Path(file["path"]).stat().st_size == file["file_bytes"]
        census: dict[str, int] = {}
        for tensor in header.tensors:
            census[tensor.type.name] = census.get(tensor.type.name, 0) + 1
        assert census == file["census"]
    assert read_header(tmp_path / "new/micro-Q2_K_XL.gguf").metadata["bitsweep.recipe"].value.startswith("Q2_K_XL.v")


def test_the_table_names_every_file_and_its_types(tmp_path: Path) -> None:
    done = convert("micro", "--to", "Q8_0", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "micro-Q8_0.gguf" in done.stdout
    assert f"{(tmp_path / 'micro-Q8_0.gguf').stat().st_size:,}" in done.stdout
    assert "Q8_0" in done.stdout.split("tensors by type")[1]


def test_a_public_model_is_sized_without_a_download(tmp_path: Path) -> None:
    done = convert("Qwen3-0.6B", "--to", "Q8_0,IQ2_XS", "--dry-run", "--format", "json")
    assert done.returncode == 0, done.stderr
    files = {file["quant"]: file for file in json.loads(done.stdout)["files"]}
    # 596,049,920 weights, 65,536 of them in norms, by the shapes in its config
    assert files["Q8_0"]["tensor_bytes"] == (596_049_920 - 65_536) // 32 * 34 + 65_536 * 4
    assert not files["Q8_0"]["header_exact"]
    assert convert("Qwen3-0.6B", "--to", "Q8_0", "--out", tmp_path).returncode == 2
    config = tmp_path / "config.json"
    config.write_bytes((MICRO / "config.json").read_bytes())
    bare = json.loads(convert(config, "--to", "Q4_K_M", "--dry-run", "--format", "json").stdout)["files"][0]
    whole = json.loads(convert("micro", "--to", "Q4_K_M", "--dry-run", "--format", "json").stdout)["files"][0]
    assert (bare["tensor_bytes"], bare["census"]) == (whole["tensor_bytes"], whole["census"])
    error_line = convert(tmp_path, "--to", "Q4_K_M", "--out", tmp_path / "new")
    assert error_line.returncode == 2
    assert "is a config without weights" in error_line.stderr


def test_an_importance_matrix_enables_the_smallest_quants(tmp_path: Path) -> None:
    from converters.imatrix import ImportanceMatrix, ImportanceStatistics

    done = convert("micro", "--to", "BF16", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    tensors = read_header(tmp_path / "micro-BF16.gguf").tensors
    blocks = [tensor for tensor in tensors if len(tensor.shape) == 2 and tensor.name.startswith("blk.")]
    rng = np.random.default_rng(0)
    statistics = {
        tensor.name: ImportanceStatistics(
            rng.uniform(1, 2, (1, tensor.shape[-1])).astype(np.float32), np.ones(1, np.float32)
        )
        for tensor in blocks
    }
    ImportanceMatrix(statistics, ("text.txt",), 3, 512).write(tmp_path / "im.gguf")
    done = convert("micro", "--to", "IQ2_XXS", "--imatrix", tmp_path / "im.gguf", "--out", tmp_path, "--format", "json")
    assert done.returncode == 0, done.stderr
    file = json.loads(done.stdout.splitlines()[-1])["files"][0]
    assert file["file_bytes"] == (tmp_path / "micro-IQ2_XXS.gguf").stat().st_size
    assert file["census"]["IQ2_XXS"] > 10
    assert read_header(tmp_path / "micro-IQ2_XXS.gguf").metadata["quantize.imatrix.file"].value == "im.gguf"


@pytest.mark.slow
def test_an_importance_matrix_is_collected_once_and_reused(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text(presets.builtin_models()["micro"].calibration.read_text()[:12_000])
    arguments = ("micro", "--to", "IQ2_XXS,F16", "--imatrix", "auto", "--calibration", text, "--format", "json")
    first = convert(*arguments, "--out", tmp_path / "a")
    assert first.returncode == 0, first.stderr
    predicted, finished = (json.loads(first.stdout.splitlines()[index]) for index in (0, -1))
    assert predicted["files"] == finished["files"]
    made = {name: (tmp_path / "a" / name) for name in ("micro-IQ2_XXS.gguf", "micro-F16.gguf", "micro.imatrix.gguf")}
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(made)
    assert {Path(file["path"]).stat().st_size: file["file_bytes"] for file in finished["files"]} == {
        file["file_bytes"]: file["file_bytes"] for file in finished["files"]
    }
    assert read_header(made["micro-IQ2_XXS.gguf"]).metadata["quantize.imatrix.dataset"].value == "short.txt"
    with_file = convert(*arguments[:3], "--imatrix", made["micro.imatrix.gguf"], "--out", tmp_path / "b")
    assert with_file.returncode == 0, with_file.stderr
    assert "matrices covered" in with_file.stderr
    again = convert(*arguments[:-2], "--out", tmp_path / "a")
    assert "micro.imatrix.gguf of an earlier run" in again.stderr
    for directory in ("a", "b"):
        assert (tmp_path / directory / "micro-IQ2_XXS.gguf").read_bytes() == made["micro-IQ2_XXS.gguf"].read_bytes()
    text.write_text(text.read_text()[:11_000])
    refused = convert(*arguments[:-2], "--out", tmp_path / "a")
    assert refused.returncode == 2
    assert "a file with other content exists" in refused.stderr
    other = convert(*arguments[:-2], "--out", tmp_path / "a", "--force")
    assert other.returncode == 0, other.stderr
    assert "of an earlier run" not in other.stderr


def test_split_files_are_written_within_a_memory_budget(tmp_path: Path) -> None:
    """In a process of its own, because a budget limits the memory of the whole process."""
    arguments = ["micro", "--to", "F16", "--split-max-size", "3M", "--memory-budget", "500MiB"]
    command = [*COMMAND, "convert", *arguments, "--out", str(tmp_path / "new"), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = json.loads(done.stdout.splitlines()[-1])["files"]
    assert file["paths"] == sorted(str(path) for path in (tmp_path / "new").iterdir())
    assert file["path"] == file["paths"][0]
    assert file["path"].endswith("/micro-F16-00001-of-00004.gguf")
    assert sum(Path(path).stat().st_size for path in file["paths"]) == file["file_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("micro", "--to", "Q9_K"), "unknown quant 'Q9_K'; did you mean"),
        (("micro", "--to", ","), "--to names no quant"),
        (("micro", "--to", "IQ2_XS"), "IQ2_XS needs an importance matrix"),
        (("micro", "--to", "Q8_0", "--imatrix", "absent.gguf"), "absent.gguf: there is no such importance matrix"),
        (("micro", "--to", "Q8_0", "--imatrix", "auto", "--calibration", "absent"), "absent: there is no such text"),
        (("micro", "--to", "Q8_0", "--calibration", "text.txt"), "--calibration is the text for --imatrix auto"),
        (("Qwen/Qwen3-0.6B", "--to", "Q8_0", "--imatrix", "auto"), "--imatrix auto needs a text"),
        (("micro", "--to", "Q8_0", "--split-max-size", "many"), "'many' is not a size; write it as"),
        (("nothing-here", "--to", "Q8_0"), "nothing-here: there is no such model"),
        (("micro", "--to", "Q8_0", "--pre-tokenizer", "gpt4"), "unknown pre-tokenizer 'gpt4'; known: qwen2, qwen35"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_no_file(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = convert(*arguments, "--out", tmp_path / "new")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_file_of_another_model_is_not_replaced(tmp_path: Path) -> None:
    arguments = ("micro", "--to", "Q2_K,Q8_0", "--out", tmp_path)
    theirs = tmp_path / "micro-Q8_0.gguf"
    theirs.write_bytes(b"theirs")
    refused = convert(*arguments)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"sweep: {theirs}: a file with other content exists; choose another name, or replace it with --force"
    ]
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(theirs.name, b"theirs")]
    assert convert(*arguments, "--dry-run").returncode == 0  # nothing would be lost
    assert convert(*arguments, "--force").returncode == 0
    made = theirs.read_bytes()
    assert made.startswith(b"GGUF")
    assert convert(*arguments).returncode == 0  # its own files: as if the command had been interrupted
    theirs.write_bytes(made.replace(b"micro", b"macro", 1))  # another header, the same length
    assert convert(*arguments).returncode == 2


def test_after_an_interrupt_the_same_command_resumes(tmp_path: Path) -> None:
    quants = (
        "Q2_K,Q3_K_S,Q3_K_M,Q3_K_L,Q4_K_S,Q4_K_M,Q5_K_S,Q5_K_M,Q6_K,Q2_K_XL,Q3_K_XL,Q4_K_XL,IQ4_XS,IQ4_NL,IQ3_S,IQ3_M"
    )
    arguments = ["micro", "--to", quants, "--out", str(tmp_path / "new")]
    with subprocess.Popen(
        [*COMMAND, "convert", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        while not list((tmp_path / "new").glob(".*.partial")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command again to resume" in errors
    assert not list((tmp_path / "new").glob("*.gguf"))
    assert convert(*arguments).returncode == 0
    assert len(list((tmp_path / "new").iterdir())) == len(quants.split(","))


OTHER_SIZES = ("nano", "mini")  # have micro's architecture


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in presets.builtin_models() if name not in OTHER_SIZES])
def test_the_built_in_models_are_exported_to_every_quant(tmp_path: Path, model: str) -> None:
    from converters.llamacpp.model import ContextOptions, Model
    from converters.recipes import QUANTS

    text = tmp_path / "short.txt"  # a tenth of the model's own text, of which every expert gets some tokens
    text.write_text(presets.builtin_models()[model].calibration.read_text()[:50_000])
    arguments = ("--imatrix", "auto", "--calibration", text, "--out", tmp_path, "--format", "json")
    done = convert(model, "--to", ",".join(QUANTS), *arguments)
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout.splitlines()[-1])["files"]
    assert [file["quant"] for file in files] == list(QUANTS)
    tokens = np.arange(100, 116, dtype=np.int32)
    for file in files:
        with Model(Path(file["path"])) as opened, opened.context(ContextOptions(n_ctx=64)) as context:
            logits = context.decode(tokens, np.arange(16), np.zeros(16, np.int32), np.ones(16, np.bool_))
            assert np.isfinite(logits).all(), file["quant"]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The BF16 file of the built-in model with experts, and the same model with a name as Ollama writes it."""
    good = tmp_path_factory.mktemp("good") / "good.gguf"
    export(open_source(presets.builtin_models()["micro-moe"].directory), {"BF16": good})
    renamed = {f"blk.{layer}.ssm_dt.bias": f"blk.{layer}.ssm_dt" for layer in range(3)}
    return good, rewrite(good, good.with_name("foreign model.gguf"), renamed=lambda name: renamed.get(name, name))


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "{}", "--to", "Q4_K_M", "--out", "new"),
        ("convert", "{}", "--to", "Q4_K_M", "--out", "new", "--no-mtp", "--requantize"),
        ("eval", "{}", "--tasks", "none", "--workspace", "new"),
        ("run", "{}", "--variants", "=Q4_K_M", "--tasks", "none", "--workspace", "new"),
        ("run", "micro-moe", "--variants", "=gguf:{}", "--tasks", "none", "--workspace", "new"),
        ("run", "micro-moe", "--reference", "gguf:{}", "--tasks", "none", "--workspace", "new"),
        ("fit", "{}", "--gpu", "24GiB"),
        ("fit", "micro-moe", "--variants", "gguf:{}", "--gpu", "24GiB"),
    ],
)
def test_a_file_that_llama_cpp_cannot_load_is_rejected_before_work(
    foreign: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*(argument.format(foreign[1]) for argument in arguments))
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert "llama.cpp cannot load this model: tensor 'blk.0.ssm_dt.bias' not found" in error
    assert error.endswith(f"Write a repaired file: sweep convert '{foreign[1]}' --repair --to QUANT")
    assert not list(tmp_path.rglob("*.gguf"))
    with_cells = [run for run in tmp_path.rglob("events.jsonl") if '"started"' in run.read_text()]
    assert not with_cells


def test_a_repaired_file_is_the_original_model(foreign: tuple[Path, Path], tmp_path: Path) -> None:
    done = convert(foreign[1], "--to", "BF16", "--repair", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    fault = "the time-step biases are called blk.N.ssm_dt, as Ollama writes them"
    assert done.stderr == f"foreign model.gguf: {fault}; they are renamed to blk.N.ssm_dt.bias\n"
    old, new = foreign[0].read_bytes(), (tmp_path / "foreign model-BF16.gguf").read_bytes()
    data = [
        file[read_header(path).data_offset :] for file, path in ((old, foreign[0]), (new, next(tmp_path.iterdir())))
    ]
    assert data[0] == data[1]
    sound = convert(foreign[0], "--to", "Q8_0", "--repair", "--out", tmp_path)
    assert sound.returncode == 0, sound.stderr
    assert sound.stderr == "good.gguf: has none of the faults that --repair knows\n"
    checkpoint = convert("micro", "--to", "Q8_0", "--repair", "--out", tmp_path)
    assert checkpoint.returncode == 2
    assert "--repair is only for GGUF files" in checkpoint.stderr


def test_an_importance_matrix_that_cannot_be_used_is_rejected_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converters.imatrix import ImportanceMatrix, ImportanceStatistics

    def write(name: str, *weights: str, value: float) -> None:
        entry = ImportanceStatistics(np.full((1, 256), value, np.float32), np.ones(1, np.float32))
        ImportanceMatrix(dict.fromkeys(weights, entry), ("text.txt",), 3, 512).write(tmp_path / name)

    monkeypatch.chdir(tmp_path)
    write("zero.gguf", "blk.0.attn_q.weight", value=0)
    write("other.gguf", "blk.99.attn_q.weight", value=1)
    write("shape.gguf", "blk.0.ffn_down.weight", value=1)
    write("gap.gguf", "blk.0.attn_q.weight", value=1)
    messages = {
        "zero.gguf": "zero.gguf: all sums or all counts are zero",
        "other.gguf": "other.gguf: names no tensor of micro",
        "shape.gguf": "shape.gguf: has (1, 256) values for blk.0.ffn_down.weight",
        "gap.gguf": "which needs importance, but gap.gguf has none for it",
    }
    commands: list[tuple[str, ...]] = [
        ("convert", "micro", "--to", "IQ2_XS", "--out", "new"),
        ("run", "micro", "--variants", "=IQ2_XS", "--tasks", "none", "--workspace", "new"),
    ]
    for file, message in messages.items():
        for command in commands:
            done = call(*command, "--imatrix", file)
            assert done.returncode == 2, (command, file)
            assert message in done.stderr.splitlines()[-1]
            assert not list((tmp_path / "new").rglob("*BF16.gguf"))
    mix = call("convert", "micro", "--to", "Q2_K_XL", "--out", "new", "--imatrix", "zero.gguf")
    assert mix.returncode == 2
    assert messages["zero.gguf"] in mix.stderr
    warned = call("convert", "micro", "--to", "Q2_K_XL", "--out", "new", "--imatrix", "gap.gguf", "--dry-run")
    assert warned.returncode == 0, warned.stderr
    assert "gap.gguf: all columns have the same importance in blk.0.attn_q.weight" in warned.stderr
    assert "gap.gguf: has no entry for blk.0.attn_k.weight" in warned.stderr
