"""Data of the product with its loaders: sweeps, built-in models and their tasks."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent


@dataclass(frozen=True)
class BuiltinModel:
    """A model shipped with the program, with the texts and tasks that belong to it."""

    name: str
    title: str
    directory: Path
    text: Path
    calibration: Path
    task_directory: Path
    tasks: tuple[str, ...]


@cache
def builtin_models() -> dict[str, BuiltinModel]:
    """The models of models.toml by name."""
    paths = ("directory", "text", "calibration", "task_directory")
    return {
        name: BuiltinModel(
            name=name,
            title=entry["title"],
            tasks=tuple(entry["tasks"]),
            **{key: ROOT / entry[key] for key in paths},
        )
        for name, entry in _toml("models.toml").items()
    }


@cache
def sweeps() -> dict[str, Path]:
    """The sweep presets shipped with the program: name -> TOML file."""
    return {file.stem: file for file in sorted((ROOT / "sweeps").glob("*.toml"))}


@cache
def defaults() -> dict[str, Any]:
    """What a model that is not built in is measured with: tasks, limit, text."""
    return _toml("defaults.toml")


def _toml(name: str) -> dict[str, Any]:
    with open(ROOT / name, "rb") as file:
        return tomllib.load(file)
