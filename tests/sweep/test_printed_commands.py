"""Commands that are printed for people can be pasted into a shell, whatever the names of files are."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import call

from converters.export import export, open_source
from converters.shell import join, quote
from sweep.commands.launch import Command
from sweep.fit.fit_report import FitOptions
from sweep.fit.gguf_rows import arguments
from sweep.fit.placement import LayerPlacement
from sweep.format import printable
from sweep.workspace import Workspace, default_root
from tui.screens.quit import QuitScreen

ROOT = Path(__file__).parents[2]
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
    "=Q4_K_M,Q8_0",
    "=ls",
    "[a-z]^x#y!z{1,2}",
    "a=~/b",
    "%1+@:,.",
]
SHELLS = ("sh", "bash", "zsh")


def words(line: str, shell: str = "sh") -> list[str]:
    """What a shell passes to a program. zsh expands as it does for a person who types, with extended patterns too."""
    options = ["-f", "-o", "extendedglob"] if shell == "zsh" else []
    command = [shell, *options, "-c", f"printf '%s\\0' {line}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return shown.stdout.split("\0")[:-1]


@pytest.mark.parametrize("shell", SHELLS)
def test_quoted_words_are_read_back_by_the_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert words(join(NAMES), shell) == NAMES


def test_a_word_is_bare_only_if_no_shell_changes_it() -> None:
    """The rule itself, also where there is no zsh: special characters are quoted anywhere, and = at the beginning."""
    for character in "~!^#[]{}*?$&;()<>|`\"\\ \n'":
        assert quote(f"a{character}b") != f"a{character}b", character
    assert quote("=Q4_K_M,Q8_0") == "'=Q4_K_M,Q8_0'"
    assert quote("--variants=Q4_K_M") == "--variants=Q4_K_M"
    assert quote("") == "''"
    assert quote("~/model/Q4_K_M.gguf") == "'~/model/Q4_K_M.gguf'"


def test_one_function_quotes_all_printed_commands() -> None:
    others = [
        str(file.relative_to(ROOT))
        for folder in ("presets", "converters", "images", "int8", "sweep", "tui")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"shlex\.(quote|join)", file.read_text()) and file.name != "shell.py"
    ]
    assert others == []


def test_the_commands_in_documentation_and_help_are_quoted_for_zsh() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]  # docs/cli.md is the help
    lines = [line.strip().removeprefix("$ ") for page in pages for line in page.read_text().splitlines()]
    commands = [line for line in lines if line.startswith("sweep ")]
    assert len(commands) > 50
    assert [line for line in commands if " =" in line] == []


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
    (content,) = QuitScreen(f"{name}-q2-q8-0a1b2c", Workspace(default_root())).content()
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
