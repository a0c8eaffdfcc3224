"""The command line as a user calls it: in a process of its own, or in this one, which spares its imports.

In this process is enough where a test is about what is answered. Signals, the environment that huggingface_hub reads
when it is imported, and what runs side by side want a process.
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
    """Run the command line in this process, and answer as `subprocess.run` does. What is no exit is raised."""
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
            told = [(file.seek(0), file.read())[1] for file in (out, err)]
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(words, code, *told)


@contextmanager
def _written_to(number: int, file: TextIO) -> Iterator[None]:
    """A standard stream goes to a file, what native code writes to it as well."""
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
