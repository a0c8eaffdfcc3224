"""Runs the command line as a user does: in a process of its own (COMMAND), or in this process (`call`).

`call` saves the time of the imports, and is enough for tests of output and exit codes. A test needs a process of its
own for signals, for commands that run at the same time, and for the environment variables that huggingface_hub reads
when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from sweep.cli import main

COMMAND = (sys.executable, "-c", "from sweep.cli import main; main()")


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process. The result has the form of `subprocess.run`'s; exceptions are raised."""
    words = ["sweep", *map(str, arguments)]
    before, sys.argv = sys.argv, words
    try:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            code = None
            with _written_to(1, out), _written_to(2, err):
                try:
                    main()
                except SystemExit as ended:
                    code = ended.code
            assert isinstance(code, int)
            written = [(file.seek(0), file.read())[1] for file in (out, err)]
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(words, code, *written)


@contextmanager
def _written_to(number: int, file: TextIO) -> Iterator[None]:
    """Redirect a standard stream to a file, including what native code writes."""
    name = {1: "stdout", 2: "stderr"}[number]
    stream = getattr(sys, name)
    stream.flush()
    kept = os.dup(number)
    os.dup2(file.fileno(), number)
    try:
        with open(number, "w", closefd=False) as own:
            setattr(sys, name, own)
            yield
    finally:
        setattr(sys, name, stream)
        os.dup2(kept, number)
        os.close(kept)
