"""A design space: recipes to compare, given as axes with values and as grids that cross two axes, from a TOML file.

The file format is explained in presets/int8-design-space.toml, which comes with the program. This module does not
import torch.
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

VERSION = 1  # of the file format
MAX_POINTS = 500  # for each, a model is calibrated and reads a text


@dataclass(frozen=True)
class RecipeAxis:
    """A property in which recipes differ: labels of its values, and the recipe keys that each value sets."""

    name: str
    title: str
    labels: tuple[str, ...]
    changes: tuple[Mapping[str, Any], ...]

    @property
    def keys(self) -> set[str]:
        return {key for change in self.changes for key in change}


@dataclass(frozen=True)
class Grid:
    """Two crossed axes: `recipes[i][j]` is `base` with the i-th value of `rows` and the j-th of `columns`."""

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
        """The recipes to measure, without repetitions, in the order of the grids."""
        return list(dict.fromkeys(one for grid in self.grids for row in grid.recipes for one in row))


def canonical_recipe(recipe: Recipe) -> Recipe:
    """The recipe without its name, and with defaults for everything that its fake-quant model does not depend on.

    Two recipes have the same fake-quant model if the results are equal.
    """
    plain = Recipe("")
    unused = ["name", "int8_attention", "dequantizer"]  # fake-quant does not compute in int8
    if not recipe.folds:
        unused.append("alpha")
    if recipe.activations is Activations.FLOAT:
        unused.append("symmetric")
    if not recipe.quantizes_attention:
        unused.append("attention_symmetric")
        if recipe.activations is not Activations.STATIC:
            unused.append("percentile")
    if recipe.query_key is Scales.FLOAT and not recipe.int8_kv_cache:
        unused.append("insertion")
    folds = tuple(fold for fold in ALL_FOLDS if fold in recipe.folds)
    return replace(recipe, **{key: getattr(plain, key) for key in unused} | {"folds": folds})


def load(file: Path) -> DesignSpace:
    """Read a design space. Raises InputError that names the file, and the axis or grid with the error."""
    try:
        with open(file, "rb") as opened:
            table = tomllib.load(opened)
    except OSError as error:
        raise InputError(f"{file}: there is no such design space ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not valid TOML: {error}") from error
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
    if size > MAX_POINTS:  # checked before any recipe is made, because a grid could have millions
        raise InputError(
            f"{file}: its grids have {size:,} points, but at most {MAX_POINTS} are allowed; use fewer values"
        )
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
            raise InputError(f"{where}: '{key}' is {entry[key]!r}, which is not an axis{_meant(entry[key], axes)}")
    rows, columns = axes[entry["rows"]], axes[entry["columns"]]
    both = rows.keys & columns.keys
    if both:
        raise InputError(f"{where}: both of its axes change '{min(both)}'; use another axis for rows or columns")
    fixed = (rows.keys | columns.keys) & set(entry.get("set", ()))
    if fixed:
        raise InputError(f"{where}: 'set' has '{min(fixed)}', which one of its axes changes")
    return entry, rows, columns


def _grid(where: str, entry: Mapping[str, Any], rows: RecipeAxis, columns: RecipeAxis) -> Grid:
    common = {"base": entry["base"], **entry.get("set", {})}
    recipes = tuple(
        tuple(
            canonical_recipe(from_table({**common, **row, **column}, f"{where} ({label}; {other})", ""))
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
            raise InputError(f"{where}: '{key}' has the wrong type ({type(value).__name__})")


def _meant(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(names)}"
