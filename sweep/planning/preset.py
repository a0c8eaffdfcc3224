"""Presets: named lists of variants and measurements, with their reference."""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import presets
from converters.errors import InputError
from sweep.planning.effort import Effort, parse_effort
from sweep.planning.measurements import checked_names
from sweep.planning.precision import checked_precision
from sweep.target import NO_TARGET, Target

_KEYS: dict[str, type] = {
    "title": str,
    "reference": str,
    "variants": list,
    "measure": list,
    "tasks": list,
    "limit": int,
    "ctx": int,
    "window": int,
    "min_tps": float,
    "max_kld": float,
    "min_recovery": float,
    "effort": str,
    "precision": str,
}


@dataclass(frozen=True)
class Preset:
    """The content of a preset's TOML file. What it does not set is None; then the
    defaults apply.

    `target` is what the variant to run has to reach; in the file, `min_recovery` is in percent, as in the option.
    """

    name: str
    title: str
    reference: str
    variants: tuple[str, ...]
    tasks: tuple[str, ...] | None = None
    limit: int | None = None
    ctx: int | None = None
    window: int | None = None
    target: Target = NO_TARGET
    effort: Effort | None = None
    precision: str | None = None
    measure: tuple[str, ...] | None = None


def load(name: str) -> Preset:
    """Load a preset by name, or by the path of a TOML file. Raises InputError, which names the file and the key."""
    known = presets.sweeps()
    file = known.get(name) or Path(name)
    if not file.is_file():
        near = difflib.get_close_matches(name, known, n=2) or known
        raise InputError(f"{name}: there is no preset or TOML file of this name; did you mean {' or '.join(near)}?")
    try:
        with open(file, "rb") as opened:
            table = tomllib.load(opened)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid TOML: {error}") from error
    return _checked(file, table)


def _checked(file: Path, table: dict[str, Any]) -> Preset:
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the known keys are {', '.join(_KEYS)}"
            raise InputError(f"{file}: unknown key '{key}'; {hint}")
        if _KEYS[key] is float and type(value) is int:
            table[key] = value = float(value)
        if type(value) is not _KEYS[key]:
            raise InputError(f"{file}: '{key}' must be of type {_KEYS[key].__name__}, not {type(value).__name__}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise InputError(f"{file}: every item of '{key}' must be a string")
        most = 100 if key == "min_recovery" else inf
        if isinstance(value, float) and not (0 < value < inf and value <= most):
            raise InputError(f"{file}: '{key}' must be above 0{' and at most 100' if most < inf else ''}")
        if isinstance(value, int) and value < 1:
            raise InputError(f"{file}: '{key}' must be at least 1")
    for key in ("reference", "variants"):
        if not table.get(key):
            raise InputError(f"{file}: '{key}' is missing")
    return Preset(
        name=file.stem,
        title=table.get("title", file.stem),
        reference=table["reference"],
        variants=tuple(table["variants"]),
        tasks=tuple(table["tasks"]) if "tasks" in table else None,
        limit=table.get("limit"),
        ctx=table.get("ctx"),
        window=table.get("window"),
        target=Target(
            table.get("min_tps"),
            table.get("max_kld"),
            None if "min_recovery" not in table else table["min_recovery"] / 100,
        ),
        effort=parse_effort(table.get("effort"), str(file)),
        precision=None if "precision" not in table else checked_precision(table["precision"], f"{file}: 'precision'"),
        measure=_measure(file, table),
    )


def _measure(file: Path, table: dict[str, Any]) -> tuple[str, ...] | None:
    if "measure" not in table:
        return None
    try:
        return checked_names(table["measure"])
    except InputError as error:
        raise InputError(f"{file}: 'measure': {error}") from error


def as_toml(preset: Preset) -> str:
    """The text of a file that `load` reads as this preset."""
    rows: list[tuple[str, object]] = [
        ("title", preset.title),
        ("reference", preset.reference),
        ("variants", list(preset.variants)),
    ]
    rows += [("measure", list(preset.measure))] if preset.measure is not None else []
    rows += [("tasks", list(preset.tasks))] if preset.tasks is not None else []
    rows += [("limit", preset.limit)] if preset.limit is not None else []
    rows += [("ctx", preset.ctx)] if preset.ctx is not None else []
    rows += [("window", preset.window)] if preset.window is not None else []
    rows += [(constraint.value, float(preset.target.number(constraint))) for constraint in preset.target.bounds]
    rows += [("effort", str(preset.effort))] if preset.effort is not None else []
    rows += [("precision", preset.precision)] if preset.precision is not None else []
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in rows)
