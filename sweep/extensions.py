"""Loads extensions: Python files with measurements, methods and executors that are not part of this program.

BITSWEEP_EXTENSIONS holds their paths, separated as in PATH. Each file is imported once in every process of a sweep and
calls `register` of the tables that it adds to: see docs/extending.md.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

from converters.errors import InputError

VARIABLE = "BITSWEEP_EXTENSIONS"


@cache
def load_extensions() -> None:
    """Import the files that BITSWEEP_EXTENSIONS names. Raises InputError if one of them cannot be imported."""
    for text in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        path = Path(text)
        if path.stem in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise InputError(f"{text}: there is no such Python file ({VARIABLE})")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[path.stem]
            raise InputError(f"{text}: cannot be imported ({VARIABLE}): {error}") from error
