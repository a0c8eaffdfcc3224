"""Write docs/cli.md, the reference of every command and option, from the same tables as `--help`.

    python tools/write_cli_reference.py

tests/sweep/cli/test_cli_reference.py fails if the page differs from what this would write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperCommand, TyperGroup

from sweep.cli.app import app
from sweep.cli.exits import EXIT_CODES
from sweep.cli.help import OptionHelp, commands_of, examples_of, options_of, paragraphs_of, usage_of

_OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]*(?: auto)?)")
PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

INTRODUCTION = """
# Command line reference

This page answers: which commands and options does `sweep` have, what does each one mean, and what is its default?

It is written by `tools/write_cli_reference.py` from the texts of `sweep COMMAND --help`. The terms are explained in
the [glossary](glossary.md).
"""
SIZES = """
**Values.** LIST stands for values separated by commas, without spaces. SIZE is a number of bytes with an optional unit:
`KiB`, `MiB`, `GiB` and `TiB` are powers of 1024; `K`, `M`, `G`, `T` and `KB`, `MB`, `GB`, `TB` are powers of 1000.
"""


def reference() -> str:
    """The whole page."""
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    return "\n".join(_lines(program)) + "\n"


def _lines(program: TyperGroup) -> Iterator[str]:
    yield INTRODUCTION.strip()
    yield ""
    yield "| command | purpose |"
    yield "|---|---|"
    for group, commands in commands_of(program).items():
        yield f"| **{group}** | |"
        for command in commands:
            yield f"| [`sweep {command.name}`](#sweep-{command.name}) | {_text(paragraphs_of(command)[0])} |"
    yield ""
    yield "`sweep --help` and `sweep COMMAND --help` print these texts; `sweep --version` prints the version."
    yield SIZES
    yield "## Exit codes"
    yield ""
    yield "| code | meaning |"
    yield "|---|---|"
    for code, meaning in EXIT_CODES.items():
        yield f"| {int(code)} | {meaning} |"
    for commands in commands_of(program).values():
        for command in commands:
            yield from _section(command)


def _section(command: TyperCommand) -> Iterator[str]:
    yield ""
    yield f"## sweep {command.name}"
    yield ""
    yield "```"
    yield usage_of(str(command.name), command)
    yield "```"
    for paragraph in paragraphs_of(command):
        yield ""
        yield _text(paragraph)
    yield ""
    yield "Examples:"
    yield ""
    yield "```"
    yield examples_of(command)
    yield "```"
    for panel, options in options_of(command).items():
        yield ""
        yield f"| {panel} | default | meaning |"
        yield "|---|---|---|"
        for option in options:
            yield f"| `{_cell(option.signature)}` | {_default(option)} | {_cell(_text(_meaning(option)))} |"


def _meaning(option: OptionHelp) -> str:
    return f"{option.meaning} N is {option.limits}." if option.limits else option.meaning


def _default(option: OptionHelp) -> str:
    return "required" if option.required else _cell(_text(option.default))


def _text(text: str) -> str:
    """Help text as Markdown: options are marked as code, except inside a command that is marked already."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _OPTION.sub(r"`\1`", part) for part in parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(reference())
