"""Functions and classes that are imported when they are first used, because torch takes seconds to load."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def import_object(path: str) -> Any:
    """The function, class or other object that "package.module:name" names. Imports its module."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
