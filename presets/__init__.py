"""Data that comes with the program, and its loaders: sweep presets, built-in models, task lists and task data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent


@dataclass(frozen=True)
class BuiltinModel:
    """A model that comes with the program, with its texts and tasks.

    `conversations` are calibration conversations about images, if the model takes images: JSONL with paths relative to
    the file.
    """

    name: str
    title: str
    directory: Path
    text: Path
    calibration: Path
    task_directory: Path
    tasks: tuple[str, ...]
    conversations: Path | None = None


@cache
def builtin_models() -> dict[str, BuiltinModel]:
    """Name -> model, from models.toml."""
    known = _toml("models.toml")
    return {name: _builtin(name, entry, known["worlds"][entry["world"]]) for name, entry in known["models"].items()}


def _builtin(name: str, entry: dict[str, str], world: dict[str, Any]) -> BuiltinModel:
    conversations = world.get("conversations")
    return BuiltinModel(
        name,
        entry["title"],
        ROOT / entry["directory"],
        text=ROOT / world["text"],
        calibration=ROOT / world["calibration"],
        task_directory=ROOT / world["task_directory"],
        tasks=tuple(world["tasks"]),
        conversations=None if conversations is None else ROOT / conversations,
    )


@cache
def sweeps() -> dict[str, Path]:
    """Name -> TOML file, for the sweep presets that come with the program."""
    return {file.stem: file for file in sorted((ROOT / "sweeps").glob("*.toml"))}


DESIGN_SPACE = ROOT / "int8-design-space.toml"
"""The default design space of int8 recipes; read by int8.design_space."""
AXES = {"int8": DESIGN_SPACE, "ptq": ROOT / "ptq-design-space.toml"}
"""Family of methods -> the file with the axes of its settings."""
VISION_TASKS = ROOT / "tasks/vision"
"""Task files in lm-eval's form, which lm-eval does not have."""
NEEDLE_TASK = ROOT / "tasks/needle"
"""What the task files of needle tasks have in common; see sweep.measure.needle."""
TOKEN_SAMPLE = ROOT / "token-sample.txt"
"""A text in many scripts, on which tokenizers with different rules differ."""


@dataclass(frozen=True)
class TaskList:
    """Several tasks under one name: (task, number of few-shot examples or None for the task's default), in order."""

    name: str
    title: str
    tasks: tuple[tuple[str, int | None], ...]
    limit: int | None


@cache
def task_lists() -> dict[str, TaskList]:
    """Name -> list of tasks, from tasks/lists.toml."""
    return {
        name: TaskList(name, entry["title"], tuple(_listed(task) for task in entry["tasks"]), entry.get("limit"))
        for name, entry in _toml("tasks/lists.toml").items()
    }


def _listed(entry: str | dict[str, Any]) -> tuple[str, int | None]:
    return (entry, None) if isinstance(entry, str) else (entry["task"], entry.get("num_fewshot"))


@dataclass(frozen=True)
class DataForm:
    """Files whose items have the fields `has`; `fields` makes the published ones, as (name, Jinja expression).

    `processed` says that the task's own preparation of items is already done. The repr of this class is part of job
    keys, so its name and fields must not change.
    """

    has: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    processed: bool


@dataclass(frozen=True)
class Needs:
    """Items whose `field` has one of `values` can be scored only if nltk has `resource`."""

    resource: str
    field: str
    values: frozenset[str]


@dataclass(frozen=True)
class TaskData:
    """A data set as files in a directory `name`; see tasks/data.toml. `dataset` is by default that of the task."""

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
    """Name -> data set, from tasks/data.toml."""
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
def effort() -> dict[str, dict[str, Any]]:
    """Level of effort -> its settings, from effort.toml."""
    return _toml("effort.toml")


@cache
def defaults() -> dict[str, Any]:
    """The default tasks, limit and text for models that are not built in."""
    return _toml("defaults.toml")


def _toml(name: str) -> dict[str, Any]:
    with open(ROOT / name, "rb") as file:
        return tomllib.load(file)
