"""Kinds of measurement, methods and executors that are not part of this program: files named by BITSWEEP_EXTENSIONS.

The variable holds paths of Python files, separated as in PATH. Each is imported once, in every process of a sweep, and
calls `register` of the registries that it adds to. docs/extending.md shows how.
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
    """Import the files that the environment names. Raises InputError for one that cannot be."""
    for text in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        path = Path(text)
        if path.stem in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise InputError(f"{text}: no such Python file ({VARIABLE})")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[path.stem]
            raise InputError(f"{text}: cannot be imported ({VARIABLE}): {error}") from error
