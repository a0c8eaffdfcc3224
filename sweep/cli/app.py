"""The `sweep` command: its subcommands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import sys

import typer

from converters.errors import InputError, MissingRuntime
from sweep import __version__
from sweep.cli import ablate, compare, convert, doctor, eval, fit, gpus, int8, presets, report, run, runs, tui
from sweep.cli.exits import EPILOG, Exit

app = typer.Typer(
    name="sweep",
    help="Which bit width to run: exports a Qwen checkpoint to many quants and measures them all the same way.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("fit")(fit.fit)
app.command("eval")(eval.evaluate)
app.command("convert")(convert.convert)
app.command("int8")(int8.int8)
app.command("ablate")(ablate.ablate)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("runs")(runs.runs)
app.command("tui")(tui.tui)
app.command("presets")(presets.presets)
app.command("gpus")(gpus.gpus)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bitsweep {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run the command line; ends the process with one of the exit codes."""
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        code = _complain(str(error), Exit.BAD_INPUT)
    except MissingRuntime as error:
        code = _complain(str(error), Exit.MISSING_RUNTIME)
    except typer.TyperException as error:
        # a bad value names its option in the formatted message alone
        told = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
        code = _complain(told, Exit.BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        code = Exit.OK
    except OSError as error:  # what the system refuses of a path that the user gave: too long a name, no right to read
        code = _complain(f"{str(error.filename)[:120]}: {error.strerror or error}", Exit.BAD_INPUT)
    if code == Exit.INTERRUPTED:  # also what typer makes of Ctrl-C
        _complain("interrupted; the same command goes on where it stopped", Exit.INTERRUPTED)
    sys.exit(int(code or 0))


def _complain(message: str, code: Exit) -> Exit:
    print(f"sweep: {' '.join(message.split())}", file=sys.stderr)
    return code
