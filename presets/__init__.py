"""Data of the product with its loaders: sweeps, built-in models and their tasks, lists of tasks and their data."""

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


DESIGN_SPACE = ROOT / "int8-design-space.toml"
"""The int8 recipes that are compared where no other file says which; read by int8.design_space."""


@dataclass(frozen=True)
class TaskList:
    """Tasks that go by one name: (task, number of examples or None for the task's own) in order."""

    name: str
    title: str
    tasks: tuple[tuple[str, int | None], ...]
    limit: int | None


@cache
def task_lists() -> dict[str, TaskList]:
    """The lists of tasks/lists.toml by name."""
    return {
        name: TaskList(name, entry["title"], tuple(_listed(task) for task in entry["tasks"]), entry.get("limit"))
        for name, entry in _toml("tasks/lists.toml").items()
    }


def _listed(entry: str | dict[str, Any]) -> tuple[str, int | None]:
    return (entry, None) if isinstance(entry, str) else (entry["task"], entry.get("num_fewshot"))


@dataclass(frozen=True)
class DataForm:
    """Files with the fields `has`: what the published fields are made of, as (name, Jinja expression over an item)."""

    has: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    processed: bool


@dataclass(frozen=True)
class Needs:
    """Items whose `field` holds one of `values` cannot be scored where nltk has no `resource`."""

    resource: str
    field: str
    values: frozenset[str]


@dataclass(frozen=True)
class TaskData:
    """A data set as files of a directory `name`; see tasks/data.toml. `dataset` None takes what the task names."""

    name: str
    tasks: tuple[str, ...] = ()
    dataset: str | None = None
    config: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    select: str | None = None
    forms: tuple[DataForm, ...] = ()
    needs: Needs | None = None


@cache
def task_data() -> dict[str, TaskData]:
    """The data sets of tasks/data.toml by name."""
    return {
        name: TaskData(
            name=name,
            tasks=tuple(entry["tasks"]),
            dataset=entry["dataset"],
            config=entry.get("config"),
            files=tuple(entry.get("files", {}).items()),
            select=entry.get("select"),
            forms=tuple(
                DataForm(tuple(form["has"]), tuple(form["fields"].items()), form.get("processed", False))
                for form in entry.get("forms", ())
            ),
            needs=_needs(entry["needs"]) if "needs" in entry else None,
        )
        for name, entry in _toml("tasks/data.toml").items()
    }


def _needs(entry: dict[str, Any]) -> Needs:
    return Needs(entry["resource"], entry["field"], frozenset(entry["values"]))


@cache
def defaults() -> dict[str, Any]:
    """What a model that is not built in is measured with: tasks, limit, text."""
    return _toml("defaults.toml")


def _toml(name: str) -> dict[str, Any]:
    with open(ROOT / name, "rb") as file:
        return tomllib.load(file)
