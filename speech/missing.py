"""The libraries of the extra bitsweep[speech], which only speech needs."""

from __future__ import annotations

import importlib
from typing import Any

from converters.errors import MissingRuntime


def require(name: str) -> Any:
    """The module `name` (soundfile, soxr or jiwer). Raises MissingRuntime if the extra is not installed."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # soundfile raises OSError without libsndfile
        raise MissingRuntime(f"speech needs {name}, which cannot be loaded; pip install 'bitsweep[speech]'") from error
