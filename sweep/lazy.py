"""Names of functions and classes that are imported when they are first used: torch takes seconds to load."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def named(path: str) -> Any:
    """What "package.module:name" stands for."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
