"""Recipes as tables, in TOML files and in JSON: reading the keys into the fields of a dataclass, with their types."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

from converters.errors import InputError


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises InputError that names the file."""
    try:
        with open(file, "rb") as opened:
            return tomllib.load(opened)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not valid TOML: {error}") from error


def read_values(kind: type, table: Mapping[str, Any], where: str, elements: Mapping[str, type]) -> dict[str, Any]:
    """The values of a table's keys, checked against the types of the fields of the dataclass `kind`.

    The field `name` is not a key. `elements` gives the type of the elements of fields that are tuples. Raises
    InputError that names `where` and the key.
    """
    types = {key: type_ for key, type_ in get_type_hints(kind).items() if key != "name"}
    return {key: _value(types, elements, where, key, value) for key, value in table.items()}


def _value(types: Mapping[str, type], elements: Mapping[str, type], where: str, key: str, value: Any) -> Any:
    if key not in types:
        near = difflib.get_close_matches(key, types, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are base, {', '.join(types)}"
        raise InputError(f"{where}: unknown key '{key}'; {hint}")
    if key in elements:
        if not isinstance(value, list):
            raise InputError(f"{where}: '{key}' must be a list of strings")
        return tuple(_member(where, key, elements[key], item) for item in value)
    if types[key] is float and type(value) is int:
        value = float(value)
    return _member(where, key, types[key], value)


def _member(where: str, key: str, kind: type, value: Any) -> Any:
    if issubclass(kind, StrEnum):
        if value not in list(kind):
            raise InputError(f"{where}: '{key}' is {value!r}; known are {', '.join(kind)}")
        return kind(value)
    if type(value) is not kind:
        raise InputError(f"{where}: '{key}' must be of type {kind.__name__}, not {type(value).__name__}")
    return value
