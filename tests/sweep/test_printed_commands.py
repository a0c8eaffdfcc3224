"""Commands that are printed for people can be pasted into a shell, whatever the names of files are."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import call

from converters.export import export, open_source
from sweep.commands.launch import Command
from sweep.fit.fit_report import FitOptions
from sweep.fit.gguf_rows import arguments
from sweep.fit.placement import LayerPlacement
from sweep.format import printable
from tui.screens.quit import QuitScreen

NAMES = [
    "plain",
    "two  spaces",
    "it's",
    'say "hi"',
    "Modell-ü-模型",
    "a$HOME;`id`&(b)*",
    "-dash",
    "back\\slash",
    "~home#!",
]


def words(line: str) -> list[str]:
    """What a shell passes to a program."""
    shown = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return shown.stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_of_llama_server_are_quoted(name: str) -> None:
    placement = LayerPlacement.whole(7, (4, 3))
    line = printable(arguments(f"{name}.gguf", placement, ("cuda", "cuda"), FitOptions(context=512)))
    flag, file, *rest = words(line)
    assert flag == "-m"
    assert file in (f"{name}.gguf", f"./{name}.gguf")
    assert not file.startswith("-")
    assert rest[:2] == ["-c", "512"]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_run_is_quoted(name: str) -> None:
    assert words(Command(("run", name, "--variants", f"gguf:{name}.gguf"), "/").line)[2:] == [
        name,
        "--variants",
        f"gguf:{name}.gguf",
    ]
    (content,) = QuitScreen(f"{name}-q2-q8-0a1b2c").content()
    command = str(content.visual).split("`sweep tui ")[1].rsplit("` shows it again", 1)[0]
    assert words(command) == [f"{name}-q2-q8-0a1b2c"]


def test_the_commands_that_sweep_fit_prints_name_the_file(tmp_path: Path) -> None:
    import presets

    folder = tmp_path / 'it\'s  "my" Modell ü'
    folder.mkdir()
    file = folder / "two  spaces.gguf"
    export(open_source(presets.builtin_models()["micro"].directory), {"Q4_0": file})
    done = call("fit", file, "--gpu", "24GiB")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "llama-server" in line]
    given = words(line.split("llama-server ")[1])
    assert given[:2] == ["-m", str(file)]
    assert shlex.split(line.split("llama-server ")[1]) == given
