"""Exit codes: a contract with scripts."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    CELLS_FAILED = 1
    BAD_INPUT = 2
    DOES_NOT_FIT = 3
    MISSING_RUNTIME = 4
    INTERRUPTED = 130


EPILOG = (
    "Exit codes: 0 ok, 1 some cells failed, 2 usage or bad input, 3 nothing fits, 4 missing runtime, 130 interrupted."
)
