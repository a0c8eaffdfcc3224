"""Which Python code a process of bitsweep runs: bitsweep's own packages, and nothing from the current directory.

Models are often measured inside a downloaded repository. Python puts the current directory first on the module search
path for `python -m` and `python -c`, so a file `numpy.py` there would run. The option -P (Python 3.11) leaves it out.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

# How every child process starts Python.
SAFE_PYTHON = (sys.executable, "-P")


def child_environment() -> dict[str, str]:
    """The environment of a child process. It prints UTF-8, which this process reads, in every locale."""
    return {**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"}


# The other packages that this distribution installs. Their names are common, so another distribution may use them too.
_PACKAGES = ("presets", "converters", "images", "speech", "int8", "ptq", "tui")


def hidden_package() -> str | None:
    """A message about a package of ours whose name another distribution or folder takes; None if there is none.

    A package is ours if it lies next to the package `sweep`.
    """
    root = Path(__file__).parent.parent
    for name in _PACKAGES:
        place = _directory(find_spec(name))
        if place != root / name:
            return (
                f"the Python package {name!r} comes from {place or 'nowhere'}, not from bitsweep ({root / name}). "
                "Another distribution or a folder of PYTHONPATH hides it: install bitsweep in an environment of its own"
            )
    return None


def _directory(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, or the file of a module."""
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
    return Path(places[0]) if places else None
