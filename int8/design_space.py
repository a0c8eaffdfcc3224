"""A design space: setups to compare, given as axes with values and as grids that cross two axes, from a TOML file.

A setup is what a family of methods varies: an int8 recipe here, a recipe and its calibration in ptq.design_space. The
file format is explained in presets/int8-design-space.toml, which comes with the program. This module does not import
torch.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from converters.errors import InputError
from int8.recipe import ALL_FOLDS, NAMED, Activations, Recipe, Scales, from_table

VERSION = 1  # of the file format
MAX_POINTS = 500  # for each, a model is calibrated and reads a text


Setup: TypeAlias = Any
"""A frozen dataclass of a family, with a method `to_json`. Setups that are equal have the same quantized model."""


@dataclass(frozen=True)
class Family:
    """Methods whose settings a design space can vary.

    - `name`: of the family; `subject` is what its setups are called in reports.
    - `bases`: the names of its bases, for messages. `knows(base)`: whether this is one of them.
    - `setup(table, where)`: the setup from the keys of a TOML object. Raises InputError that begins with `where`.
    - `lacks(setup, key)`: why the key has no effect in this setup, as a clause; None if it has one.
    """

    name: str
    subject: str
    bases: str
    knows: Callable[[str], bool]
    setup: Callable[[Mapping[str, Any], str], Setup]
    lacks: Callable[[Setup, str], str | None]


@dataclass(frozen=True)
class RecipeAxis:
    """A property in which setups differ: labels of its values, and the recipe keys that each value sets."""

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
    recipes: tuple[tuple[Setup, ...], ...]


@dataclass(frozen=True)
class DesignSpace:
    """The grids of one file, or a grid for each of its axes; all are of one family.

    `left_out`: a line for every value of an axis that the base cannot have."""

    title: str
    grids: tuple[Grid, ...]
    family: Family
    left_out: tuple[str, ...] = ()

    @property
    def points(self) -> list[Setup]:
        """The setups to measure, without repetitions, in the order of the grids."""
        return list(dict.fromkeys(one for grid in self.grids for row in grid.recipes for one in row))


def canonical_recipe(recipe: Recipe) -> Recipe:
    """The recipe without its name, and with defaults for everything that its fake-quant model does not depend on.

    Two recipes have the same fake-quant model if the results are equal.
    """
    plain = Recipe("")
    folds = tuple(fold for fold in ALL_FOLDS if fold in recipe.folds)
    return replace(recipe, **{key: getattr(plain, key) for key in ("name", *_unused(recipe))} | {"folds": folds})


def _unused(recipe: Recipe) -> list[str]:
    """The keys that the fake-quant model does not depend on."""
    unused = ["int8_attention", "dequantizer"]  # fake-quant does not compute in int8
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
    return unused


INT8 = Family(
    name="int8",
    subject="int8 recipes",
    bases=", ".join(NAMED),
    knows=lambda base: base.removeprefix("int8:") in NAMED,
    setup=lambda table, where: canonical_recipe(from_table({**table, "base": _int8_name(table["base"])}, where, "")),
    lacks=lambda recipe, key: "the recipe has nothing that it changes" if key in _unused(recipe) else None,
)


def load(
    file: Path, families: Sequence[Family] = (INT8,), common: Mapping[str, Mapping[str, Any]] | None = None
) -> DesignSpace:
    """Read the grids of a design space. The base of its first grid decides the family. `common` are keys that every
    setup of a family has, by its name, unless the file changes them.

    Raises InputError that names the file, and the axis or grid with the error.
    """
    table, axes = _read(file)
    grids = table.get("grids", [])
    if not grids:
        raise InputError(f"{file}: has no [[grids]], so there is nothing to measure")
    if not all(isinstance(entry, dict) for entry in grids):
        raise InputError(f"{file}: 'grids' must be tables: write [[grids]]")
    crossed = [_crossed(f"{file}: grid {i}", entry, axes) for i, entry in enumerate(grids, 1)]
    _require_few(file, [(rows, columns) for _, rows, columns in crossed])
    family = family_of(crossed[0][0]["base"], families, f"{file}: grid 1")
    return DesignSpace(
        table.get("title", file.stem),
        tuple(
            _grid(f"{file}: grid {i}", family, {**(common or {}).get(family.name, {}), **entry}, *both)
            for i, (entry, *both) in enumerate(crossed, 1)
        ),
        family,
    )


def around(file: Path, base: str, family: Family, names: Sequence[str], common: Mapping[str, Any]) -> DesignSpace:
    """The design space that changes one setting of `base` at a time: by the axes `names` of the file, or, if none are
    named, by all that the base has. `common` are keys that every setup has, unless an axis changes them.

    Raises InputError for a wrong base, and for a named axis that the file or the base does not have.
    """
    axes = _read(file)[1]
    start = {"base": base, **common}
    setup = family.setup(start, base)
    for name in names:
        if name not in axes:
            raise InputError(f"{name}: is not an axis of {file.name}{_meant(name, axes)}")
    lacking = {name: why for name, axis in axes.items() if (why := _lacking(family, setup, axis))}
    chosen = [axes[name] for name in names or axes if name not in lacking]
    for name in names:
        if name in lacking:
            others = ", ".join(name for name in axes if name not in lacking) or "none"
            raise InputError(f"{base}: '{name}' changes nothing: {lacking[name]}; its axes are {others}")
    if not chosen:
        raise InputError(f"{base}: {file.name} has no axis that changes it; choose another --base or --design-space")
    alone = RecipeAxis("base", "base", (base,), ({},))
    _require_few(file, [(alone, axis) for axis in chosen])
    grids, left_out = [], []
    for axis in chosen:
        known, refused = _possible(family, start, axis)
        left_out += refused
        row = tuple(family.setup({**start, **change}, base) for change in known.changes)
        grids.append(Grid(axis.title, base, alone, known, (row,)))
    return DesignSpace(f"{base}, one setting at a time", tuple(grids), family, tuple(left_out))


def family_of(base: str, families: Sequence[Family], where: str) -> Family:
    """The family that knows this base. Raises InputError that names `where` and the bases that there are."""
    for family in families:
        if family.knows(base):
            return family
    known = "; or ".join(family.bases for family in families)
    raise InputError(f"{where}: 'base' is {base!r}; known are {known}")


def _lacking(family: Family, setup: Setup, axis: RecipeAxis) -> str | None:
    """Why the base has nothing that the axis changes; None if it has."""
    reasons = [family.lacks(setup, key) for key in sorted(axis.keys)]
    return None if None in reasons else reasons[0]


def _possible(family: Family, start: Mapping[str, Any], axis: RecipeAxis) -> tuple[RecipeAxis, list[str]]:
    """The axis with the values that the base can have, and a line for each of the others."""
    labels, changes, refused = [], [], []
    for label, change in zip(axis.labels, axis.changes, strict=True):
        try:
            family.setup({**start, **change}, f"{axis.name} {label}")
        except InputError as error:
            refused.append(f"{error}; it is left out")
        else:
            labels.append(label)
            changes.append(change)
    return replace(axis, labels=tuple(labels), changes=tuple(changes)), refused


def _int8_name(base: Any) -> Any:
    return base.removeprefix("int8:") if isinstance(base, str) else base


def _read(file: Path) -> tuple[dict[str, Any], dict[str, RecipeAxis]]:
    """The content of a file, and its axes."""
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
    return table, axes


def _require_few(file: Path, crossed: Collection[tuple[RecipeAxis, RecipeAxis]]) -> None:
    """Checked before any setup is made, because a grid could have millions."""
    size = sum(len(rows.labels) * len(columns.labels) for rows, columns in crossed)
    if size > MAX_POINTS:
        raise InputError(
            f"{file}: its grids have {size:,} points, but at most {MAX_POINTS} are allowed; use fewer values"
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


def _grid(where: str, family: Family, entry: Mapping[str, Any], rows: RecipeAxis, columns: RecipeAxis) -> Grid:
    outer = {"title", "rows", "columns", "set"}
    common = {key: value for key, value in entry.items() if key not in outer} | entry.get("set", {})
    recipes = tuple(
        tuple(
            family.setup({**common, **row, **column}, f"{where} ({label}; {other})")
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
