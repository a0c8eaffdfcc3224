"""The command line. Each command is a module; shared options, output and exit codes have their own modules."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ends the process with one of the exit codes."""
    from sweep.cli.streams import standard_streams

    with standard_streams():
        _main()


def _main() -> None:
    from sweep.cli.exits import Exit
    from sweep.own_code import hidden_package

    message = hidden_package()
    if message is not None:  # before our packages are imported, which would end in a traceback
        print(f"sweep: {message}", file=sys.stderr)
        sys.exit(int(Exit.MISSING_RUNTIME))
    from sweep.cli.app import main as command_line

    command_line()
