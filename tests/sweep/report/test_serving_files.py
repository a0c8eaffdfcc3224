"""The files of --export: what each program reads in them is what llama-server's command says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from converters.errors import InputError
from converters.shell import join
from sweep.analysis.advice import Advice
from sweep.analysis.candidate import AdvisedPlacement, Candidate, Commands
from sweep.cli.export_output import write_export
from sweep.cli.output import Format, Output
from sweep.report.serving_files import llama_server, lm_studio, modelfile, served_file


def candidate(run: str, get: str = "", layers: int | None = 37, variant: str = "Q4_K_M") -> Candidate:
    commands = Commands(run, get, layers)
    return Candidate("m", variant, 1, "f16", 8192, AdvisedPlacement.GPU, None, None, commands=commands)


def fields(run: str, layers: int | None = 37) -> dict[str, object]:
    content = json.loads(lm_studio(served_file(candidate(run, layers=layers))))
    assert set(content) == {"preset", "operation", "load"}
    return {one["key"]: one["value"] for one in content["load"]["fields"]}


def test_the_script_runs_the_command_with_what_is_added(tmp_path: Path) -> None:
    words = ["llama-server", "-m", "a 'b'.gguf", "-c", "8192", "-ngl", "37"]
    (tmp_path / "llama-server").write_text('#!/bin/sh\nprintf "%s|" llama-server "$@"\n')
    (tmp_path / "llama-server").chmod(0o755)
    script = tmp_path / "run.sh"
    script.write_text(llama_server(served_file(candidate(join(words), "sweep convert m --to Q4_K_M"))))
    found = subprocess.run(
        ["sh", str(script), "--port", "9"],
        env={"PATH": f"{tmp_path}:/bin:/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.rstrip("|").split("|") == [*words, "--port", "9"]
    assert "# First get the file: sweep convert m --to Q4_K_M\n" in script.read_text()


def test_a_modelfile_has_the_file_the_context_and_the_layers() -> None:
    command = "llama-server -m m.gguf --mmproj /p.gguf -c 16384 -np 1 -ngl 20 -ctk q8_0 -ctv q8_0"
    assert modelfile(served_file(candidate(command))).splitlines() == [
        "# Q4_K_M",
        "# KV cache: start the server with OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE=q8_0",
        "FROM ./m.gguf",
        "FROM /p.gguf",
        "PARAMETER num_ctx 16384",
        "PARAMETER num_gpu 20",
    ]


def test_a_projector_file_on_the_hub_is_downloaded_too() -> None:
    command = "llama-server -hf o/m --hf-file m.gguf --mmproj-url https://hub.example/o/m/resolve/main/p.gguf -c 1024"
    lines = modelfile(served_file(candidate(command))).splitlines()
    get = "hf download o/m m.gguf --local-dir . && curl -LO https://hub.example/o/m/resolve/main/p.gguf"
    assert lines[1:4] == [f"# First get the file: {get}", "FROM ./m.gguf", "FROM ./p.gguf"]


def test_a_modelfile_does_not_pretend_that_ollama_moves_experts() -> None:
    text = modelfile(served_file(candidate("llama-server -m m.gguf -c 8192 -ngl 37 -ncmoe 12")))
    assert "num_gpu" not in text
    assert "# The experts of 12 layers belong in RAM; Ollama moves only whole layers there." in text


def test_lm_studio_gets_shares_of_the_layers() -> None:
    found = fields("llama-server -m m.gguf -c 8192 -ngl 18 -ctk q8_0 -ctv f16", layers=36)
    assert found == {
        "llm.load.contextLength": 8192,
        "llm.load.llama.acceleration.offloadRatio": 0.5,
        "llm.load.llama.flashAttention": True,
        "llm.load.llama.kCacheQuantizationType": {"checked": True, "value": "q8_0"},
        "llm.load.llama.vCacheQuantizationType": {"checked": False, "value": "f16"},
    }
    assert fields("llama-server -m m -c 1 -ngl 37 -ncmoe 9")["llm.load.numCpuExpertLayersRatio"] == 0.25
    assert fields("llama-server -m m -c 1 -ngl 999", None)["llm.load.llama.acceleration.offloadRatio"] == 1.0
    assert "llm.load.llama.acceleration.offloadRatio" not in fields("llama-server -m m -c 1 -ngl 5", None)


def test_a_file_on_a_hub_is_downloaded_first() -> None:
    served = served_file(candidate("llama-server -hf o/r --hf-file sub/m-Q4.gguf --no-mmproj -c 8192"))
    assert served.get == "hf download o/r sub/m-Q4.gguf --local-dir ."
    assert "FROM ./sub/m-Q4.gguf\n" in modelfile(served)
    parts = served_file(candidate("llama-server -hf o/r --hf-file m-00001-of-00002.gguf --no-mmproj -c 8192"))
    assert parts.get == "hf download o/r m-00001-of-00002.gguf m-00002-of-00002.gguf --local-dir ."
    assert modelfile(parts).splitlines()[2:4] == [
        "# Ollama reads no files in parts. Join them: llama-gguf-split --merge m-00001-of-00002.gguf m.gguf",
        "FROM ./m.gguf",
    ]


def test_only_what_llama_cpp_runs_is_exported() -> None:
    for command in ("", "vllm serve ./m --max-model-len 8192"):
        with pytest.raises(InputError, match="does not run it"):
            served_file(candidate(command))


def test_a_named_variant_is_written_and_a_file_of_ones_own_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = (candidate(f"llama-server -m {name}.gguf -c 64", variant=name) for name in ("A", "B"))
    advice, output = Advice("m", one, "", candidates=(one, other)), Output(Format.QUIET)
    write_export("ollama", advice, output)
    write_export("ollama:B", advice, output)
    assert {file.name for file in tmp_path.iterdir()} == {"A.Modelfile", "B.Modelfile"}
    (tmp_path / "A.Modelfile").write_text("mine")
    with pytest.raises(InputError, match=r"A\.Modelfile: a file with other content exists"):
        write_export("ollama", advice, output)
    assert (tmp_path / "A.Modelfile").read_text() == "mine"
    with pytest.raises(InputError, match="there is no variant 'C'; there are A, B"):
        write_export("lmstudio:C", advice, output)
    with pytest.raises(InputError, match="no variant is recommended; name one with --export ollama:VARIANT"):
        write_export("ollama", Advice("m", None, "", candidates=(one,)), output)
