"""Recipes to be compared: axes with their values, and the grids that cross two of them, read from a TOML file.

Its form is explained by the one that comes with the program, presets/int8-design-space.toml. Free of torch.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.errors import InputError
from int8.recipe import ALL_FOLDS, Activations, Recipe, Scales, from_table

VERSION = 1  # of the file's form
MOST_POINTS = 500  # each is a calibrated model that reads a text


@dataclass(frozen=True)
class RecipeAxis:
    """One thing that recipes differ in: labels of its values, and the keys of a recipe that each of them changes."""

    name: str
    title: str
    labels: tuple[str, ...]
    changes: tuple[Mapping[str, Any], ...]

    @property
    def keys(self) -> set[str]:
        return {key for change in self.changes for key in change}


@dataclass(frozen=True)
class Grid:
    """Two axes crossed: `recipes[i][j]` has the i-th value of `rows` and the j-th of `columns`, all else of `base`."""

    title: str
    base: str
    rows: RecipeAxis
    columns: RecipeAxis
    recipes: tuple[tuple[Recipe, ...], ...]


@dataclass(frozen=True)
class DesignSpace:
    """The grids of one file."""

    title: str
    grids: tuple[Grid, ...]

    @property
    def points(self) -> list[Recipe]:
        """The recipes to be measured, each once, in the order of the grids."""
        return list(dict.fromkeys(one for grid in self.grids for row in grid.recipes for one in row))


def computed(recipe: Recipe) -> Recipe:
    """The recipe under no name, with defaults for what its fake-quant model does not depend on.

    Two recipes have the same model where these are equal.
    """
    plain = Recipe("")
    idle = ["name", "int8_attention", "dequantizer"]  # ways to compute in int8
    if not recipe.folds:
        idle.append("alpha")
    if recipe.activations is Activations.FLOAT:
        idle.append("symmetric")
    if not recipe.quantizes_attention:
        idle.append("attention_symmetric")
        if recipe.activations is not Activations.STATIC:
            idle.append("percentile")
    if recipe.query_key is Scales.FLOAT and not recipe.int8_kv_cache:
        idle.append("insertion")
    folds = tuple(fold for fold in ALL_FOLDS if fold in recipe.folds)
    return replace(recipe, **{key: getattr(plain, key) for key in idle} | {"folds": folds})


def load(file: Path) -> DesignSpace:
    """Read a design space. Raises InputError naming the file, and the axis or grid where something is wrong."""
    try:
        with open(file, "rb") as opened:
            table = tomllib.load(opened)
    except OSError as error:
        raise InputError(f"{file}: there is no such design space ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid TOML: {error}") from error
    _known_keys(str(file), table, {"version": int, "title": str, "axes": dict, "grids": list})
    if table.get("version") != VERSION:
        raise InputError(f"{file}: 'version' is {table.get('version', 'missing')}; this program reads {VERSION}")
    axes = {name: _axis(f"{file}: axis '{name}'", name, entry) for name, entry in table.get("axes", {}).items()}
    grids = table.get("grids", [])
    if not grids:
        raise InputError(f"{file}: has no [[grids]], so there is nothing to measure")
    if not all(isinstance(entry, dict) for entry in grids):
        raise InputError(f"{file}: 'grids' must be tables: write [[grids]]")
    crossed = [_crossed(f"{file}: grid {i}", entry, axes) for i, entry in enumerate(grids, 1)]
    size = sum(len(rows.labels) * len(columns.labels) for _, rows, columns in crossed)
    if size > MOST_POINTS:  # before any recipe is made: a grid can be of millions
        raise InputError(f"{file}: its grids have {size:,} points; {MOST_POINTS} are the most: take fewer values")
    return DesignSpace(
        table.get("title", file.stem),
        tuple(_grid(f"{file}: grid {i}", entry, *axes) for i, (entry, *axes) in enumerate(crossed, 1)),
    )


def _axis(where: str, name: str, entry: Any) -> RecipeAxis:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: must be a table with 'values'")
    _known_keys(where, entry, {"title": str, "values": (list, dict)})
    values = entry.get("values")
    if not values:
        raise InputError(f"{where}: has no 'values'")
    if isinstance(values, list):
        labels, changes = [_label(value) for value in values], [{name: value} for value in values]
    else:
        labels, changes = list(values), list(values.values())
    for label, change in zip(labels, changes, strict=True):
        if labels.count(label) > 1:
            raise InputError(f"{where}: has {label} twice")
        if not isinstance(change, dict) or not change or "base" in change:
            raise InputError(f"{where}: '{label}' must be a table of a recipe's keys, such as {{ alpha = 0.5 }}")
    return RecipeAxis(name, entry.get("title", name), tuple(labels), tuple(changes))


def _label(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _crossed(
    where: str, entry: Mapping[str, Any], axes: Mapping[str, RecipeAxis]
) -> tuple[Mapping[str, Any], RecipeAxis, RecipeAxis]:
    """A grid's table and its two axes."""
    _known_keys(where, entry, {"title": str, "base": str, "rows": str, "columns": str, "set": dict})
    for key in ("base", "rows", "columns"):
        if key not in entry:
            raise InputError(f"{where}: '{key}' is missing")
    for key in ("rows", "columns"):
        if entry[key] not in axes:
            raise InputError(f"{where}: '{key}' is {entry[key]!r}, which is no axis{_meant(entry[key], axes)}")
    rows, columns = axes[entry["rows"]], axes[entry["columns"]]
    both = rows.keys & columns.keys
    if both:
        raise InputError(f"{where}: both of its axes change '{min(both)}'; take another for rows or columns")
    fixed = (rows.keys | columns.keys) & set(entry.get("set", ()))
    if fixed:
        raise InputError(f"{where}: 'set' has '{min(fixed)}', which one of its axes changes")
    return entry, rows, columns


def _grid(where: str, entry: Mapping[str, Any], rows: RecipeAxis, columns: RecipeAxis) -> Grid:
    common = {"base": entry["base"], **entry.get("set", {})}
    recipes = tuple(
        tuple(
            computed(from_table({**common, **row, **column}, f"{where} ({label}; {other})", ""))
            for other, column in zip(columns.labels, columns.changes, strict=True)
        )
        for label, row in zip(rows.labels, rows.changes, strict=True)
    )
    title = entry.get("title", f"{rows.title} and {columns.title}")
    return Grid(title, entry["base"], rows, columns, recipes)


def _known_keys(where: str, entry: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for key, value in entry.items():
        if key not in kinds:
            raise InputError(f"{where}: unknown key '{key}'{_meant(key, kinds)}")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise InputError(f"{where}: '{key}' is of the wrong type ({type(value).__name__})")


def _meant(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(names)}"
