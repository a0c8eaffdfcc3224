"""Exit codes. Scripts rely on them, so a code never changes its meaning."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from converters.errors import InputError, MissingRuntime
from sweep.endings import Ending


class Exit(IntEnum):
    OK = 0
    JOBS_FAILED = 1
    BAD_INPUT = 2
    DOES_NOT_FIT = 3
    MISSING_RUNTIME = 4
    JOBS_CANCELLED = 5
    INTERRUPTED = 130
    NOT_READ = 141  # as the shell reports the end by SIGPIPE


EXIT_CODES = {
    Exit.OK: "Everything was done.",
    Exit.JOBS_FAILED: "At least one job failed. The results of the others are stored.",
    Exit.BAD_INPUT: (
        "An option, file or model is wrong, or the output cannot be written. One line on stderr says what to change."
    ),
    Exit.DOES_NOT_FIT: (
        "`sweep fit`: no variant fits completely on the GPUs. With a target (`--min-tps`, `--max-kld`, "
        "`--min-recovery`): no variant satisfies it."
    ),
    Exit.MISSING_RUNTIME: "A library, a device or a build option is missing.",
    Exit.JOBS_CANCELLED: "No job failed, but at least one was cancelled. Run the same command again to run it.",
    Exit.INTERRUPTED: "Interrupted. Run the same command again to resume.",
    Exit.NOT_READ: "The program that reads the output has ended (SIGPIPE), for example `head`.",
}
"""What each code means, for `sweep --help` and docs/cli.md."""


def exit_code(endings: Iterable[str]) -> Exit:
    """The exit code for jobs that ended in these ways. Jobs are skipped only because of others, which decide."""
    found = set(endings)
    if Ending.FAILED in found:
        return Exit.JOBS_FAILED
    return Exit.JOBS_CANCELLED if Ending.CANCELLED in found else Exit.OK


_WORST_FIRST = (Exit.BAD_INPUT, Exit.MISSING_RUNTIME, Exit.JOBS_FAILED, Exit.JOBS_CANCELLED, Exit.DOES_NOT_FIT)


def exit_code_for(error: InputError | MissingRuntime) -> Exit:
    """The exit code for an error that one line says."""
    return Exit.MISSING_RUNTIME if isinstance(error, MissingRuntime) else Exit.BAD_INPUT


def worst(codes: Iterable[Exit]) -> Exit:
    """The exit code for several runs."""
    found = set(codes)
    return next((code for code in _WORST_FIRST if code in found), Exit.OK)
