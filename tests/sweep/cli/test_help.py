"""Help of every command: readable in 80 columns and without colours, in the same groups, with examples that parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from command_line import call
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

import presets
from sweep.cli.app import app
from sweep.cli.help import Panel, examples_of, options_of, paragraphs_of

PROGRAM = typer.main.get_command(app)
assert isinstance(PROGRAM, TyperGroup)
COMMANDS = {name: command for name, command in PROGRAM.commands.items() if isinstance(command, TyperCommand)}
EXAMPLES = [
    shlex.split(line.removeprefix("$ "))
    for command in (PROGRAM, *COMMANDS.values())
    for line in map(str.strip, examples_of(command).splitlines())
    if line.startswith("$ ")
]


def help_of(name: str, columns: int = 80) -> list[str]:
    """The lines of a help page in a terminal of this width that shows no colours."""
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": str(columns), "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["--help", *COMMANDS])
def test_help_fits_the_terminal(name: str, columns: int) -> None:
    lines = help_of(name, columns)
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described_in_sentences_within_a_panel(name: str) -> None:
    panels = options_of(COMMANDS[name])
    assert list(panels) == [panel for panel in Panel if panel in panels]
    for option in (option for options in panels.values() for option in options):
        assert re.fullmatch(r"[A-Zdl].*\.", option.meaning), option
    for paragraph in paragraphs_of(COMMANDS[name]):
        assert paragraph.endswith("."), paragraph


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_shows_its_default_or_needs_none(name: str) -> None:
    """An option without a default does nothing unless it is given: a flag, or one that names an additional output."""
    additional = {"--csv", "--html", "--write-base", "--variants"}
    for option in (option for options in options_of(COMMANDS[name]).values() for option in options):
        is_flag = not option.value and not option.is_argument
        assert option.default or option.required or is_flag or additional & set(option.names), option


def test_help_shows_names_values_defaults_and_limits() -> None:
    page = " ".join(" ".join(help_of("run")).split())
    assert (
        "--ctx N Context length that the memory figures are for, in tokens per sequence. [64 or more; default: 8192"
        in page
    )
    assert "--keep all|best|none" in page
    assert "--chat-template, --no-chat-template" in page
    assert "[1 to 64; default: one per GPU" in page
    assert "Usage: sweep int8 [MODEL] --out DIR [OPTIONS]" in " ".join(help_of("int8"))


def test_shared_options_have_one_text() -> None:
    """--calibration, --perplexity, --window, --ctx and others say the same in every command, apart from its purpose."""
    texts: dict[str, set[str]] = {}
    for command_name, command in COMMANDS.items():
        for options in options_of(command).values():
            for option in options:
                if (command_name, option.names[0]) == ("doctor", "--dry-run"):
                    continue  # it prints a command and no plan
                texts.setdefault(option.names[0], set()).add(option.meaning)
    for name in ("--workspace", "--format", "--ctx", "--imatrix", "--window", "--samples", "--length", "--dry-run"):
        assert len(texts[name]) == 1, texts[name]


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_examples_are_valid_command_lines(words: list[str]) -> None:
    program, name, *arguments = words
    assert program == "sweep"
    context = COMMANDS[name].make_context(name, arguments)
    assert not context.args


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_of_itself(name: str) -> None:
    lines = examples_of(COMMANDS[name]).splitlines()
    assert lines
    for text, line in zip(lines[::2], lines[1::2], strict=True):
        assert re.fullmatch(r"[A-Z].*:", text)
        assert line.startswith(f"  $ sweep {name}")


ON_THE_HUB = ("Qwen/", "openai/")


def runs_anywhere(words: list[str]) -> bool:
    """Whether an example needs neither the network nor a terminal nor earlier runs, and ends soon."""
    command, *arguments = words[1:]
    if command in ("tui", "ablate", "report", "compare", "doctor") or any(
        word.startswith(ON_THE_HUB) for word in arguments
    ):
        return False
    return command not in ("run", "eval") or "text.txt" in arguments


@pytest.mark.slow
@pytest.mark.parametrize("words", map(list, dict.fromkeys(map(tuple, filter(runs_anywhere, EXAMPLES)))), ids=" ".join)
def test_examples_run_as_printed(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITSWEEP_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "text.txt").write_text(presets.builtin_models()["micro"].calibration.read_text()[:12_000])
    done = call(*words[1:])
    assert done.returncode == 0, done.stderr


def test_the_program_without_arguments_shows_its_help() -> None:
    done = call()
    assert done.returncode == 2
    assert "Usage: sweep COMMAND" in done.stdout
    assert done.stderr == ""
