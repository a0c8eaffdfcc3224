"""`sweep fit` and `sweep gpus` as users and scripts call them: reports, exit codes, and one line for bad input."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import serve
from stored_runs import Stored

import presets
from sweep.cli import main
from sweep.workspace import Workspace

MICRO = presets.builtin_models()["micro"]
ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_runs_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSWEEP_WORKSPACE", str(tmp_path / "workspace"))


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def parsed(out: str) -> dict[str, Any]:
    (line,) = out.splitlines()
    return json.loads(line)


def test_json_has_the_documented_fields(sweep: Any) -> None:
    command = ("fit", "micro", "--gpu", "4GiB", "--variants", "Q4_K_M,int8:sq", "--format", "json")
    code, out, err = sweep(*command, "--reserve", "2GB")
    assert (code, err) == (0, "")
    report = parsed(out)
    assert (report["model"], report["context"], report["kv_type"]) == (
        "micro",
        1024,
        "f16",
    )  # micro's trained context
    assert [row["variant"] for row in report["rows"]] == ["Q4_K_M", "int8:sq"]
    promised = "file weights kv recurrent compute output total".split()
    for row in report["rows"]:
        assert all(isinstance(row[f"{part}_bytes"], int) for part in promised), row
        assert row["fits"]
        assert row["verdict"] == "fits"
        assert isinstance(row["bits_per_weight"], float)
        assert row["max_context"] == 1024
        assert row["max_context_with_ram"] == (1024 if row["kind"] == "gguf" else None)
        assert row["per_device"][0]["usable_bytes"] == 4 << 30
        assert row["per_device"][0]["reserve_bytes"] == 2 << 30
        assert row["figures"]["reserve"]["formula"] == "left free on each device, as given by --reserve"
        assert row["arguments"] or row["kind"] != "gguf"
        assert all(figure["source"] and figure["formula"] for figure in row["figures"].values()), row
    assert report["trained_context"] == 1024
    assert report["rows"][0]["tokens_per_s"] > 0
    assert report["rows"][0]["expected_kld"]["source"] == "prior"
    config = json.loads((MICRO.directory / "config.json").read_text())
    token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 2  # K and V, f16
    assert [row["kv_bytes"] for row in report["rows"]] == [1024 * token] * 2


def test_the_command_that_settles_names_the_model_and_the_workspace_as_they_are_typed(
    sweep: Any, tmp_path: Path
) -> None:
    model, elsewhere = tmp_path / "my model", tmp_path / "runs"
    shutil.copytree(MICRO.directory, model)
    command = ("fit", model, "--gpu", "4GiB", "--variants", "Q6_K", "--format", "json")
    settle = parsed(sweep(*command)[1])["advice"]["settle"]["command"]
    assert settle == f"sweep run '{model}' --variants '=Q6_K'"  # BITSWEEP_WORKSPACE is the default one
    settle = parsed(sweep(*command, "--workspace", elsewhere)[1])["advice"]["settle"]["command"]
    assert settle == f"sweep run '{model}' --variants '=Q6_K' --workspace {elsewhere}"


def test_options_change_the_figures_and_the_command(sweep: Any) -> None:
    def row(*arguments: str) -> dict[str, Any]:
        command = ("fit", "micro", "--gpu", "4GiB", "--variants", "Q8_0", "--format", "json", *arguments)
        code, out, _ = sweep(*command)
        assert code == 0
        return parsed(out)["rows"][0]

    plain = row()
    assert row("--ctx", "512")["kv_bytes"] * 2 == plain["kv_bytes"]
    assert row("--parallel", "3")["kv_bytes"] == 3 * plain["kv_bytes"]
    half = row("--kv-type", "f16,q8_0")
    assert half["kv_bytes"] == plain["kv_bytes"] // 2 + plain["kv_bytes"] // 2 * 34 // 64
    assert "-ctv q8_0" in half["arguments"]
    assert row("--ubatch", "64")["compute_bytes"] < plain["compute_bytes"]
    assert "-fa off" in row("--no-flash-attn")["arguments"]


def test_tables_show_verdicts_sources_and_commands(sweep: Any) -> None:
    code, out, _ = sweep("fit", "Qwen3-8B", "--gpu", "RTX 3060 Ti", "--variants", "Q4_K_M,BF16", "--explain")
    assert code == 0
    lines = out.splitlines()
    assert next(line for line in lines if "Q4_K_M" in line).startswith("✓")
    assert next(line for line in lines if "BF16" in line).startswith("◐")
    words = " ".join(out.split())
    assert "RTX 3060 Ti (simulated)" in words
    assert "weights: llama.cpp dry run" in words
    assert "Run this: sweep convert Qwen/Qwen3-8B --to Q4_K_M llama-server -m Qwen3-8B-Q4_K_M.gguf -c 8192" in words
    assert "weights in bytes, from llama.cpp dry run" in words


def test_commands_to_paste_are_never_wrapped(sweep: Any) -> None:
    _, out, _ = sweep("fit", "Qwen3-30B-A3B", "--gpu", "12GiB", "--variants", "Q8_0")
    command = next(line for line in out.splitlines() if "llama-server -m" in line)
    assert len(command) > 140
    assert command.count("'") == 2


@pytest.mark.parametrize("order", [("1400MiB", "24GiB"), ("24GiB", "1400MiB")])
def test_a_nearly_full_gpu_does_not_prevent_the_use_of_another(sweep: Any, order: tuple[str, str]) -> None:
    """1400 MiB is less than the reserve of a GPU."""
    gpus = ("--gpu", order[0], "--gpu", order[1])
    code, out, _ = sweep("fit", "Qwen3-8B", *gpus, "--variants", "Q4_K_M", "--format", "json")
    (row,) = parsed(out)["rows"]
    held = {share["device"]: share["total_bytes"] for share in row["per_device"]}
    assert (code, row["fits"], held["1400MiB"]) == (0, True, 0)
    assert row["headroom_bytes"] == (24 << 30) - held["24GiB"] - row["per_device"][0]["reserve_bytes"]


def test_images_and_the_projector_file_are_counted(sweep: Any) -> None:
    arguments = ("Qwen3-VL-2B-Instruct", "--gpu", "24GiB", "--variants", "Q4_K_M", "--image", "4x1280x960")
    code, out, _ = sweep("fit", *arguments, "--format", "json")
    assert code == 0
    report = json.loads(out)
    tower = report["projector"]
    assert tower["images"] == [{"width": 1280, "height": 960, "count": 4, "tokens": 1200}]  # 40 x 30
    assert (tower["name"], tower["tokens"], report["context"]) == ("F16", 4800, 8192 + 4800)
    (row,) = report["rows"]
    assert row["projector_bytes"] == tower["weights_bytes"] + tower["compute_bytes"]
    # llama.cpp's own log for this model: "compute buffer size = 322.35 MiB"
    assert tower["compute_bytes"] // MIB == 322
    _, out, _ = sweep("fit", *arguments)
    assert "4 images of 1,280 x 960 pixels, 1,200 tokens each; 8,192 tokens of the context remain" in " ".join(
        out.split()
    )
    assert "sweep convert Qwen/Qwen3-VL-2B-Instruct --to Q4_K_M --mmproj F16" in out
    assert "--mmproj mmproj-Qwen3-VL-2B-Instruct-F16.gguf" in out


def test_without_flash_attention_the_advice_takes_no_quantized_cache(sweep: Any) -> None:
    code, out, err = sweep("fit", "Qwen3-0.6B", "--gpu", "1GiB", "--no-flash-attn")
    assert (code, err) == (3, "")
    assert "No variant fits" in out


def test_the_exit_code_is_3_if_nothing_fits(sweep: Any) -> None:
    command = ("fit", "Qwen3-8B", "--gpu", "4GiB", "--variants", "BF16", "--best")
    code, out, _ = sweep(*command, "--no-offload", "--format", "json")
    assert code == 3
    report = parsed(out)
    assert report["best"] is report["advice"]["variant"] is None
    assert not report["rows"][0]["fits"]
    assert sweep(*command, "--no-offload", "--format", "quiet")[:2] == (3, "")
    code, out, _ = sweep(*command, "--format", "json")  # it runs with layers in RAM
    assert code == 3
    assert parsed(out)["advice"]["placement"] == "layers-in-ram"


def test_best_uses_the_measurements_of_a_run(sweep: Any, tmp_path: Path) -> None:
    flat = np.full(4, 1.0)
    klds = {"Q8_0": 0.004, "Q6_K": 0.001, "Q4_K_M": 0.02}
    text = {"BF16": (flat, None)} | {name: (flat, np.full(4, kld)) for name, kld in klds.items()}
    (tmp_path / "workspace").mkdir()
    Stored("a", text=text, variants=tuple(text)).put(Workspace(tmp_path / "workspace"))
    command = ("fit", "micro", "--gpu", "4GiB", "--variants", "Q8_0,Q6_K,Q4_K_M", "--best")
    assert sweep(*command, "--format", "quiet")[:2] == (0, "Q6_K\n")
    assert parsed(sweep(*command, "--format", "json")[1])["best_is_measured"] is True
    assert "► Run Q6_K" in sweep(*command)[1]


def bad_config(directory: Path) -> str:
    shutil.copytree(MICRO.directory, directory / "llama")
    file = directory / "llama" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["LlamaForCausalLM"]}))
    return str(file)


def hostile_header(directory: Path) -> str:
    file = directory / "hostile.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
    return str(file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("micro", "--gpu", "RTX 4099"), "did you mean RTX 4090"),
        (("micro", "--gpu", "24"), "size without a unit; write 24GiB"),
        (("micro", "--gpu", "8GiB", "--ctx", "4096"), "1024"),
        (("micro", "--gpu", "8GiB", "--kv-type", "q9_0"), "q9_0"),
        (("micro", "--kv-type", "f16,f16,f16"), "--kv-type"),
        (("micro", "--gpu", "8GiB", "--kv-type", "q8_0", "--no-flash-attn"), "flash attention"),
        (("micro", "--gpu", "8GiB", "--variants", "Q4_K_X"), "Q4_K_"),
        (("micro", "--gpu", "8GiB", "--variants", "int8:nonsense"), "int8:"),
        (("micro", "--parallel", "0"), "--parallel"),
        (("micro", "--gpu", "8GiB", "--image", "640x480"), "has no vision_config, so it is a text model"),
        (
            ("Qwen3-VL-2B-Instruct", "--gpu", "8GiB", "--image", "big"),
            "--image 'big' is not a size; write it as 1280x960",
        ),
        (("Qwen3-VL-2B-Instruct", "--gpu", "8GiB", "--image", "0x9"), "a side must have from 1 to 46,000 pixels"),
        (("Qwen3-VL-2B-Instruct", "--gpu", "8GiB", "--mmproj", "Q9"), "'Q9' is not a type of projector files"),
        (("Qwen3-VL-2B-Instruct", "--gpu", "8GiB", "--mmproj", "no.gguf"), "no.gguf: there is no such file"),
        (
            ("Qwen3-VL-2B-Instruct", "--gpu", "8GiB", "--ctx", "1024", "--image", "2x1280x960"),
            "images take 2400 tokens",
        ),
        (("Qwen3-9B", "--gpu", "8GiB"), "Qwen3-8B"),
        (("/no/such.gguf", "--gpu", "8GiB"), "/no/such.gguf"),
        ((bad_config, "--gpu", "8GiB"), "LlamaForCausalLM"),
        ((hostile_header, "--gpu", "8GiB"), "hostile.gguf"),
    ],
)
def test_bad_input_gives_one_line(sweep: Any, tmp_path: Path, arguments: tuple[Any, ...], message: str) -> None:
    made = [one(tmp_path) if callable(one) else one for one in arguments]
    code, out, err = sweep("fit", *made)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("sweep: ")
    assert message in line


def run_sweep_fit(*arguments: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """In a separate process, because huggingface_hub reads its endpoint when it is imported."""
    where = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", "from sweep.cli import main; main()", "fit", *arguments, "--gpu", "4GiB"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **where},
    )


def test_a_hub_id_reads_only_the_config_and_reports_its_bytes(tmp_path: Path) -> None:
    with serve({"org/micro": MICRO.directory}) as hub:
        command = ("org/micro", "--variants", "Q4_K_M", "--format", "json")
        done = run_sweep_fit(*command, endpoint=hub.url, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    report = parsed(done.stdout)
    assert report["bytes_read"] == (MICRO.directory / "config.json").stat().st_size
    fetched = {
        request.rpartition("/")[2] for request in hub.requests if request.startswith("GET") and "resolve" in request
    }
    assert fetched == {"config.json"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("org/gated", "requires a login"),
        ("org/absent", "no such model"),
        ("org/offline", "cannot be reached"),
        ("hub:org/offline/x.gguf", "cannot be reached"),
    ],
)
def test_a_failing_hub_gives_one_line(tmp_path: Path, model: str, message: str) -> None:
    with serve({"org/gated": MICRO.directory}, gated=frozenset({"org/gated"})) as hub:
        endpoint = "http://127.0.0.1:9" if "offline" in model else hub.url
        done = run_sweep_fit(model, endpoint=endpoint, cache=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("sweep: ")]
    assert len(lines) == 1
    assert model.removeprefix("hub:").removesuffix("/x.gguf") in lines[0]
    assert message in lines[0]


def test_gpus_are_listed_as_a_table_and_as_json(sweep: Any) -> None:
    code, out, _ = sweep("gpus", "rtx 40")
    assert code == 0
    assert "RTX 4090" in out
    assert "M3 Max" not in out
    assert "NVIDIA's specifications" in out
    _, out, _ = sweep("gpus", "--format", "json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert next(row for row in rows if row["gpu"] == "RTX 4090")["bandwidth_bytes_per_s"] == 1008e9
    assert all(row["usable_bytes"] < row["memory_bytes"] for row in rows)
    code, _, err = sweep("gpus", "nonsense")
    assert (code, len(err.splitlines())) == (2, 1)


def test_a_sweep_leaves_out_variants_that_do_not_fit_on_its_gpu(sweep: Any, tmp_path: Path) -> None:
    """micro needs 20 MiB as BF16, 15.7 as Q8_0 and 12.5 as Q2_K; after the reserve the GPU has room for 14 MiB."""
    gpu = f"{1536 + 14}MiB"
    text = tmp_path / "test.txt"
    text.write_text(MICRO.text.read_text()[:6000])
    command = ("run", "micro", "--variants", "=Q8_0,Q2_K", "--tasks", "none", "--perplexity", text, "--gpu", gpu)
    code, out, err = sweep(*command, "--dry-run")
    assert code == 0
    assert "Q8_0 needs" in err
    assert "BF16 needs" in err
    assert "it is measured, because other variants are compared with it" in err
    code, _, err = sweep(*command, "--gpu", "any RAM", "--dry-run")  # what is partly in RAM is not left out
    assert (code, "needs" in err) == (0, False)
    code, out, _ = sweep(*command, "--format", "json")
    assert code == 0  # to be skipped is not to fail
    records = {record["variant"]: record for record in json.loads(out.splitlines()[-1])["records"]}
    assert {name: record["status"] for name, record in records.items()} == {
        "BF16": "ok", "Q8_0": "skipped", "Q2_K": "ok"
    }  # fmt: skip
    assert gpu in records["Q8_0"]["error"]
    assert records["Q8_0"]["memory"]["predicted_bytes"] > 14 * MIB
    assert records["Q8_0"]["perplexity"] is None
    assert records["Q2_K"]["divergence"] is not None
    code, out, _ = sweep("report")
    assert code == 0
    assert "⊘ Q8_0 skipped: needs" in out
