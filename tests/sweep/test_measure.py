"""--measure, --depth and texts from pipes: what is planned and measured, and what is rejected."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import call

import presets
from sweep.planning import piped_text
from sweep.planning.preset import as_toml, load

MICRO = presets.builtin_models()["micro"]


def plan(*arguments: object) -> dict[str, Any]:
    done = call("run", "micro", "--variants", "=Q8_0", "--dry-run", "--format", "json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def cells(found: dict[str, Any]) -> set[str]:
    return {cell["cell"].partition("/")[2] for cell in found["cells"]}


@pytest.mark.parametrize(
    ("arguments", "measured"),
    [
        (("--measure", "text"), {"text", "size"}),
        (("--measure", "tasks", "--tasks", "micro_form"), {"micro_form", "size"}),
        (("--measure", "speed,text"), {"text", "speed"}),
        (("--measure", "speed", "--depth", "0,256,128"), {"speed", "speed at 128", "speed at 256"}),
        (("--tasks", "none"), {"text", "speed"}),
    ],
)
def test_only_what_is_asked_for_is_planned(tmp_path: Path, arguments: tuple[str, ...], measured: set[str]) -> None:
    assert cells(plan(*arguments, "--workspace", tmp_path)) == {"export", *measured}


def test_a_preset_chooses_measurements_and_the_option_overrides_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('reference = "BF16"\nvariants = ["BF16", "Q8_0"]\nmeasure = ["text"]\n')
    assert load(str(file)).measure == ("text",)
    (tmp_path / "again.toml").write_text(as_toml(load(str(file))))
    assert load(str(tmp_path / "again.toml")).measure == ("text",)
    found = plan("--preset", file, "--workspace", tmp_path)
    assert (found["measure"], cells(found)) == (["text"], {"export", "text", "size"})
    assert plan("--preset", file, "--measure", "speed", "--workspace", tmp_path)["measure"] == ["speed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--measure", "texts"), "--measure: there is no measurement 'texts'; did you mean text?"),
        (("--measure", "xyz"), "choose from speed, text, tasks"),
        (("--measure", ","), "--measure: names no measurement; choose from"),
        (("--measure", "tasks", "--tasks", "none"), "there is nothing to measure"),
        (
            ("--measure", "speed", "--perplexity", MICRO.text),
            "--perplexity is for the measurement text, which --measure",
        ),
        (("--measure", "text", "--tasks", "micro_form"), "--tasks is for the measurement tasks"),
        (("--measure", "text", "--depth", "128"), "--depth is for the measurement speed"),
        (("--depth", "1000"), "--depth 1000: micro was trained for 1024 tokens, which leaves no room for a prompt"),
        (("--depth", "many"), "write it as 4096,16384"),
        (("--speed-seconds", "0"), "--speed-seconds"),
        (("--tasks", "needle"), "needle: a needle task is named by its number of tokens: needle_4096"),
        (("--tasks", "needle_99999"), "99999 tokens are more than the 1024 that micro was trained for"),
        (("--tasks", "needle_10"), "too few for the questions; the least are 256"),
        (("--perplexity", os.devnull), "no text came through the pipe"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call("run", "micro", "--variants", "=Q8_0", *arguments, "--workspace", tmp_path / "w")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())
    assert not list(tmp_path.rglob("*.gguf"))


def test_eval_of_a_text_measures_no_speed(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(MICRO.text.read_text()[:8_000])
    done = call(
        "eval", "micro", "--quant", "Q8_0", "--perplexity", text, "--workspace", tmp_path / "w", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout.splitlines()[-1])["records"]
    assert record["speed"] is None
    assert record["perplexity"]["value"] > 1
    (file,) = tmp_path.rglob("*.gguf")
    assert record["file_bytes"] == file.stat().st_size
    assert record["memory"]["predicted_bytes"] > record["file_bytes"]
    assert record["memory"]["measured_bytes"] is None


def test_speed_at_a_depth_is_in_the_record_and_the_table(tmp_path: Path) -> None:
    arguments = ("eval", "micro", "--quant", "Q8_0", "--measure", "speed", "--depth", "256", "--speed-seconds", "0.5")
    done = call(*arguments, "--workspace", tmp_path / "w", "--format", "json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout.splitlines()[-1])["records"]
    deep = record["speed_at_depth"]["256"]
    assert deep["prompt_tokens_per_s"] > 0
    assert deep["decode_tokens_per_s"] > 0
    assert (record["perplexity"], record["tasks"]) == (None, {})
    csv = call("report", "--workspace", tmp_path / "w", "--csv", tmp_path / "r.csv")
    assert csv.returncode == 0, csv.stderr
    assert "speed_at_depth.256.decode_tokens_per_s" in (tmp_path / "r.csv").read_text().splitlines()[0]
    page = (tmp_path / "w" / "runs" / json.loads(done.stdout.splitlines()[-1])["run"] / "report.html").read_text()
    assert "Decode t/s at 256" in page


@pytest.mark.parametrize("by", ["stdin", "fifo"])
def test_a_text_comes_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    content = MICRO.text.read_text()[:8_000].encode() + "é".encode()[:1]  # as head -c cuts it
    piped_text._content.cache_clear()
    pipe: Path = Path("-")
    if by == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    else:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        threading.Thread(target=lambda: pipe.write_bytes(content)).start()
    found = plan("--measure", "text", "--perplexity", pipe, "--workspace", tmp_path / "w")
    assert found["text"] == "text from a pipe"
    (saved,) = (tmp_path / "w" / "texts").iterdir()
    assert saved.read_bytes() == content[:-1]
    words = piped_text.with_saved_texts(("run", "--perplexity", f"a.txt,{pipe}"), {pipe: saved})
    assert words == ("run", "--perplexity", f"a.txt,{saved}")


def test_a_needle_task_is_made_with_the_tokens_of_the_model(tmp_path: Path) -> None:
    found = plan("--measure", "tasks", "--tasks", "needle_512", "--limit", "2", "--workspace", tmp_path)
    assert cells(found) == {"export", "needle_512", "size"}
    (file,) = tmp_path.rglob("needle_512.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 8
    assert file.with_suffix(".yaml").is_file()
