"""The `sweep` command: its subcommands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from converters.errors import InputError, MissingRuntime
from sweep import __version__
from sweep.cli import ablate, compare, convert, doctor, eval, fit, gpus, int8, presets, report, run, runs, tui
from sweep.cli.exits import Exit, exit_code_for
from sweep.cli.help import CommandGroup, HelpCommand, HelpGroup

EXAMPLES = """
Which quants of a model fit on a GPU:
  $ sweep fit Qwen3.6-27B --gpu "RTX 4090"
Which quant of a model to run:
  $ sweep run Qwen/Qwen3-4B --preset q2-q8
Everything on one screen:
  $ sweep tui
"""

app = typer.Typer(
    cls=HelpGroup,
    name="sweep",
    help="Find the smallest quant of a Qwen model with no significant loss: make GGUF and int8 variants, measure them "
    "all in the same way, and compare them.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _add(group: CommandGroup, name: str, command: Callable[..., int | None], examples: str) -> None:
    app.command(name, cls=HelpCommand, epilog=examples, rich_help_panel=group)(command)


_add(CommandGroup.CHOOSE, "fit", fit.fit, fit.EXAMPLES)
_add(CommandGroup.CHOOSE, "run", run.run, run.EXAMPLES)
_add(CommandGroup.CHOOSE, "tui", tui.tui, tui.EXAMPLES)
_add(CommandGroup.MAKE, "convert", convert.convert, convert.EXAMPLES)
_add(CommandGroup.MAKE, "int8", int8.int8, int8.EXAMPLES)
_add(CommandGroup.MEASURE, "eval", eval.evaluate, eval.EXAMPLES)
_add(CommandGroup.MEASURE, "ablate", ablate.ablate, ablate.EXAMPLES)
_add(CommandGroup.LOOK, "report", report.report, report.EXAMPLES)
_add(CommandGroup.LOOK, "runs", runs.runs, runs.EXAMPLES)
_add(CommandGroup.LOOK, "compare", compare.compare, compare.EXAMPLES)
_add(CommandGroup.ABOUT, "presets", presets.presets, presets.EXAMPLES)
_add(CommandGroup.ABOUT, "gpus", gpus.gpus, gpus.EXAMPLES)
_add(CommandGroup.ABOUT, "doctor", doctor.doctor, doctor.EXAMPLES)


def _print_version(given: bool) -> None:
    if given:
        print(f"bitsweep {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run the command line; ends the process with one of the exit codes."""
    try:
        code = app(prog_name="sweep", standalone_mode=False)
    except (InputError, MissingRuntime) as error:
        code = _complain(str(error), exit_code_for(error))
    except typer.TyperException as error:
        # only the formatted message of a bad value has the name of its option
        message = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
        code = _complain(message, Exit.BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        code = Exit.INTERRUPTED
    except OSError as error:  # the system rejects a path that the user gave: its name is too long, it is not readable
        place = "" if error.filename is None else f"{str(error.filename)[:120]}: "
        code = _complain(f"{place}{error.strerror or error}", Exit.BAD_INPUT)
    if code == Exit.INTERRUPTED:  # typer also turns Ctrl-C into this code
        _complain("interrupted; run the same command again to resume", Exit.INTERRUPTED)
    sys.exit(int(code or 0))


def _complain(message: str, code: Exit) -> Exit:
    """Print the message as one line. Without arguments typer prints the help itself and gives no message."""
    if message:
        print(f"sweep: {' '.join(message.split())}", file=sys.stderr)
    return code
