"""`sweep convert --to SIZE`: a mix that keeps the budget, and is written only if it is better than other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call

import presets

NANO = presets.builtin_models()["nano"]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A workspace that is shared, so that sensitivities are measured once, and short texts."""
    folder = tmp_path_factory.mktemp("mix")
    for name, text in (("calibration", NANO.calibration), ("test", NANO.text)):
        (folder / f"{name}.txt").write_text(text.read_text()[:6_000])
    texts = ("--calibration", str(folder / "calibration.txt"), "--perplexity", str(folder / "test.txt"))
    return ["nano", *texts, "--workspace", str(folder / "w"), "--mix-types", "Q2_K,Q4_K", "--format", "json"]


def convert(options: list[str], *more: object) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """The events, the line on the mix, and the last line."""
    done = call("convert", *options, *more)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    (mix,) = (line for line in lines if line["event"] == "mix")
    (finished,) = (line for line in lines if line["event"] == "finished" and "files" in line)
    return lines, mix, finished


@pytest.mark.slow
def test_the_mix_of_a_size(options: list[str], tmp_path: Path) -> None:
    planned = call("convert", "nano", "--to", "Q2_K", "--dry-run", "--format", "json")
    size = json.loads(planned.stdout)["files"][0]["file_bytes"] + 100  # the name of the mix in the header
    lines, mix, finished = convert(options, "--to", f"{size}B", "--out", tmp_path)
    (file,) = finished["files"]
    assert file["file_bytes"] == Path(file["path"]).stat().st_size <= mix["limit_bytes"] == size
    assert mix["files"][0]["variant"] == f"mix:{size}B"
    assert "Q2_K" in [one["variant"] for one in mix["files"][1:]]
    assert all(one["file_bytes"] <= size for one in mix["files"])
    measured = {line["cell"].rpartition("/")[0] for line in lines if line["event"] == "cell_started"}
    assert {"BF16", f"mix:{size}B", "Q2_K"} <= measured
    assert (file["quant"] == f"mix:{mix['recipe']}") == (mix["ratio"]["high"] < 1.0)
    recipe = tmp_path / f"nano-{size}B.toml"
    if mix["ratio"]["high"] < 1.0:  # the recipe makes the same file again
        again = call("convert", "nano", "--to", f"mix:{recipe}", "--out", tmp_path / "again", "--format", "json")
        (same,) = json.loads(again.stdout.splitlines()[-1])["files"]
        assert same["census"] == file["census"]
    else:
        assert not recipe.exists()

    # Another size needs no sensitivities, and a rule fixes a type.
    lines, mix, finished = convert(options, "--to", "4.0bpw", "--tensor-type", "token_embd=Q4_K", "--out", tmp_path)
    started = [line["cell"] for line in lines if line["event"] == "cell_started"]
    assert not any("blk" in cell for cell in started)
    rules = Path(mix["recipe"]).read_text()
    assert r'{ regex = "^token_embd\\.weight$", type = "Q4_K" }' in rules
    assert finished["files"][0]["bits_per_weight"] <= 4.0


@pytest.mark.slow
def test_a_mix_that_is_not_better_is_not_written(options: list[str], tmp_path: Path) -> None:
    """With one bad type only, the mix is worse than the quants of the size."""
    _, mix, finished = convert(options, "--mix-types", "Q2_K", "--to", "800kB", "--out", tmp_path)
    assert mix["ratio"]["low"] > 1.0
    assert mix["variant"] == mix["files"][1]["variant"] == finished["files"][0]["quant"] != "mix:800kB"
    assert not list(tmp_path.glob("*.toml"))
    words = call("convert", *options, "--mix-types", "Q2_K", "--to", "800kB", "--out", tmp_path, "--format", "human")
    assert f"{mix['variant']} is written: the mix is not better." in " ".join(words.stdout.split())


@pytest.mark.release
@pytest.mark.parametrize(("name", "factor"), [("micro", 1.3), ("micro-moe", 1.5)])
def test_the_mix_is_better_than_the_quant_of_its_size(name: str, factor: float, tmp_path: Path) -> None:
    planned = call("convert", name, "--to", "Q2_K", "--dry-run", "--format", "json")
    size = json.loads(planned.stdout)["files"][0]["file_bytes"] + 100  # the name of the mix in the header
    _, mix, _ = convert([name, "--format", "json", "--workspace", str(tmp_path)], "--to", f"{size}B", "--out", tmp_path)
    assert mix["ratio"]["high"] < 1.0
    assert 1 / factor < mix["predicted_kld"] / mix["files"][0]["kld_mean"] < factor


@pytest.mark.release
def test_a_sweep_compares_the_mix_of_a_size(options: list[str]) -> None:
    text = ("--perplexity", options[4], "--tasks", "none", "--measure", "text", "--workspace", options[6])
    done = call("run", "nano", "--variants", "=Q3_K_M,mix:4bpw+kv=q8_0", *text, "--format", "json")
    assert done.returncode == 0, done.stderr
    records = {record["variant"]: record for record in json.loads(done.stdout.splitlines()[-1])["records"]}
    mix = records["mix:4bpw+kv=q8_0"]
    assert (mix["status"], mix["kv_type"]) == ("ok", "q8_0")
    assert mix["bits_per_weight"] <= 4.0
    assert mix["divergence"]["kld_mean"] > 0.0


def test_bad_input_is_an_error_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "nano-1MiB.gguf").write_bytes(b"mine")
    for arguments, message in (
        (("--to", "5.5GiB,Q4_K_M"), "a size is searched by itself; give 5.5GiB alone"),
        (("--to", "1MiB", "--dry-run"), "the mix is known only after measuring; leave --dry-run out"),
        (("--to", "1MiB", "--mix-types", "Q9"), "--mix-types Q9: not a type that tensors can have"),
        (("--to", "Q4_K_M", "--each-tensor"), "--each-tensor is for a size in --to, such as --to 5.5GiB"),
        (("--to", "1KiB"), "--to 1KiB: too small for this model; with the smallest types"),
        (("--to", "2MiB", "--tensor-type", "nothing=Q8_0"), "no tensor that can be quantized has such a name"),
        (("--to", "1MiB"), "nano-1MiB.gguf"),
    ):
        done = call("convert", "nano", *arguments, "--workspace", tmp_path / "w", "--out", tmp_path)
        assert done.returncode == 2, arguments
        assert message in done.stderr
    assert (tmp_path / "nano-1MiB.gguf").read_bytes() == b"mine"
    assert not (tmp_path / "w" / "runs").exists() or not list((tmp_path / "w" / "runs").iterdir())
