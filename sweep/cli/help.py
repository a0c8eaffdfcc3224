"""What `--help` prints: usage, description, options in panels, and examples that can be pasted.

Typer's own layout gives each part of an option a column, which leaves 18 of 80 columns for the text. Here an option
with its value is in one column and its text in the other. docs/cli.md is written from the same descriptions
(tools/write_cli_reference.py).
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from rich.console import Console
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from sweep.cli.exits import EXIT_CODES

TEXT_COLUMN = 28  # where the text of an option begins
MAX_WIDTH = 110  # columns; longer lines are hard to read
KEEP_TOGETHER = "\u00a0"  # no-break space


class Panel(StrEnum):
    """The groups of options, the same for every command, in the order in which help shows them."""

    RUNS = "Runs"
    MODEL = "Model"
    VARIANTS = "Variants"
    MEASUREMENTS = "Measurements"
    MEMORY = "Memory"
    TARGET = "Target"
    EXECUTION = "Execution"
    OUTPUT = "Output"


class CommandGroup(StrEnum):
    """The groups of commands in `sweep --help`, in its order."""

    CHOOSE = "Choose what to run"
    MAKE = "Make quantized files"
    MEASURE = "Measure"
    LOOK = "Look at results"
    ABOUT = "About this installation"


@dataclass(frozen=True)
class OptionHelp:
    """An argument or option as a reader sees it.

    `names` are the spellings of an option ("--mtp", "--no-mtp") or the name of an argument ("MODEL"). `value` says what
    follows an option; it is empty for flags and arguments. `default` and `limits` are empty if there are none.
    """

    names: tuple[str, ...]
    value: str
    meaning: str
    default: str
    limits: str
    required: bool
    is_argument: bool

    @property
    def signature(self) -> str:
        """`--ctx N`, `--mtp, --no-mtp`, `MODEL`."""
        return f"{', '.join(self.names)} {self.value}".rstrip()

    @property
    def notes(self) -> str:
        """`[1 or more; default: 64]`, or nothing. KEEP_TOGETHER stands for a space at which no line is broken."""
        default = f"default:{KEEP_TOGETHER}{self.default}" if self.default else ""
        notes = [self.limits.replace(" ", KEEP_TOGETHER), default, "required" if self.required else ""]
        return f"[{'; '.join(filter(None, notes))}]" if any(notes) else ""


def options_of(command: TyperCommand | TyperGroup) -> dict[Panel, list[OptionHelp]]:
    """The arguments and options of a command by panel, without the empty panels. Those without a panel are output."""
    found: dict[Panel, list[OptionHelp]] = {panel: [] for panel in Panel}
    for parameter in command.params:
        if isinstance(parameter, (TyperArgument, TyperOption)) and not parameter.hidden:
            found[Panel(parameter.rich_help_panel or Panel.OUTPUT)].append(_described(parameter))
    found[Panel.OUTPUT].append(OptionHelp(("--help",), "", "Show this text and exit.", "", "", False, False))
    return {panel: options for panel, options in found.items() if options}


def usage_of(name: str, command: TyperCommand) -> str:
    """`sweep convert [MODEL] --to LIST [OPTIONS]`."""
    every = [option for options in options_of(command).values() for option in options]
    words = [option.signature if option.required else f"[{option.signature}]" for option in every if option.is_argument]
    words += [option.signature for option in every if option.required and not option.is_argument]
    return " ".join(["sweep", name, *words, "[OPTIONS]"])


def paragraphs_of(command: TyperCommand | TyperGroup) -> list[str]:
    """The description of a command, each paragraph on one line."""
    text = inspect.cleandoc(command.help or "")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph]


def examples_of(command: TyperCommand | TyperGroup) -> str:
    """The examples of a command, its epilog, as they are shown."""
    return inspect.cleandoc(command.epilog or "")


def commands_of(program: TyperGroup) -> dict[CommandGroup, list[TyperCommand]]:
    """The commands by group, in the order of `sweep --help`."""
    found: dict[CommandGroup, list[TyperCommand]] = {group: [] for group in CommandGroup}
    for command in program.commands.values():
        assert isinstance(command, TyperCommand)
        found[CommandGroup(str(command.rich_help_panel))].append(command)
    return found


def _described(parameter: TyperArgument | TyperOption) -> OptionHelp:
    is_argument = isinstance(parameter, TyperArgument)
    is_flag = isinstance(parameter, TyperOption) and parameter.is_flag
    names = (parameter.display_name_raw,) if is_argument else (*parameter.opts, *parameter.secondary_opts)
    return OptionHelp(
        names=names,
        value="" if is_argument or is_flag else _value(parameter),
        meaning=parameter.help or "",
        default="" if parameter.required else _default(parameter),
        limits=_limits(parameter),
        required=parameter.required,
        is_argument=is_argument,
    )


def _value(parameter: Any) -> str:
    """What follows an option on the command line."""
    if parameter.metavar is not None:
        return str(parameter.metavar)
    choices = parameter.type_descriptor.choices
    return "|".join(str(choice.value) for choice in choices) if choices else "N"


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    default = parameter.default
    if default is None or default is False:
        return ""
    if default is True:
        return str(parameter.opts[0])
    return str(default.value if isinstance(default, Enum) else default)


def _limits(parameter: Any) -> str:
    if parameter.max is not None:
        return f"{parameter.min} to {parameter.max}"
    return f"{parameter.min} or more" if parameter.min is not None else ""


class HelpCommand(TyperCommand):
    """A command that prints its help in this program's layout."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        page = _Page()
        page.paragraphs([f"Usage: {usage_of(str(self.name), self)}"], style="bold")
        page.paragraphs(paragraphs_of(self))
        for panel, options in options_of(self).items():
            page.heading(panel)
            for option in options:
                page.row(option.signature, option.meaning, option.notes)
        page.examples(examples_of(self))
        page.print()


class HelpGroup(TyperGroup):
    """The program: its help lists the commands by group, and the exit codes."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        page = _Page()
        page.paragraphs(["Usage: sweep COMMAND [OPTIONS]"], style="bold")
        page.paragraphs(paragraphs_of(self))
        for group, commands in commands_of(self).items():
            page.heading(group)
            for command in commands:
                page.row(str(command.name), paragraphs_of(command)[0], column=13)
        page.heading("Options")
        for option in options_of(self)[Panel.OUTPUT]:
            page.row(option.signature, option.meaning, column=13)
        page.examples(examples_of(self))
        page.heading("Exit codes")
        for code, meaning in EXIT_CODES.items():
            page.row(str(int(code)), meaning, column=13)
        page.print()


class _Page:
    """Lines of a help page as wide as the terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._width = min(self._console.width, MAX_WIDTH)
        self._text = Text()

    def paragraphs(self, paragraphs: Iterable[str], style: str = "") -> None:
        for paragraph in paragraphs:
            lines = textwrap.wrap(paragraph, self._width - 1, break_on_hyphens=False)
            self._lines(["", *(f" {line}" for line in lines)], style)

    def heading(self, title: str) -> None:
        self._lines(["", f" {title}"], "bold")

    def row(self, term: str, meaning: str, notes: str = "", column: int = TEXT_COLUMN) -> None:
        """A term on the left and its text on the right, or below if the term is too long for its column."""
        lines = textwrap.wrap(f"{meaning} {notes}".strip(), max(self._width - column, 20), break_on_hyphens=False)
        lines = [line.replace(KEEP_TOGETHER, " ") for line in lines]
        if len(term) + 4 > column:
            lines.insert(0, "")
        self._text.append(f"   {term}", "cyan")
        self._lines(
            [
                " " * (column - 3 - len(term)) + lines[0] if lines[0] else "",
                *(" " * column + line for line in lines[1:]),
            ]
        )

    def examples(self, text: str) -> None:
        if not text:
            return
        self.heading("Examples")
        for line in text.splitlines():
            self._lines([f"   {line}".rstrip()], "green" if line.lstrip().startswith("$") else "")

    def print(self) -> None:
        self._console.print(self._text, soft_wrap=True, end="")

    def _lines(self, lines: Sequence[str], style: str = "") -> None:
        for line in lines:
            self._text.append(f"{line}\n", style)
