"""Which tasks take images, as their files say: for planning, without loading lm-eval or the tasks' data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sweep.measure import task_names


def takes_images(name: str, folder: Path | None = None) -> bool:
    """Whether a task, or a task of a group or tag, has `doc_to_image` in its file or in one that this includes.

    `folder` holds its file; None: lm-eval's own tasks. A file that cannot be read takes none: loading the task says
    what is wrong with it.
    """
    return _takes_images(name, folder, frozenset())


def members(name: str) -> tuple[str, ...]:
    """The names of the tasks that the file of a group lists."""
    listed = [_config(file).get("task") for file in task_names.declaring_files(name)]
    return tuple(one for names in listed if isinstance(names, list) for one in names if isinstance(one, str))


def _takes_images(name: str, folder: Path | None, seen: frozenset[str]) -> bool:
    if name in seen:  # a group within itself
        return False
    files = task_names.declaring_files(name, folder)
    return any(_has_images(_config(file), file, folder, seen | {name}) for file in files)


def _has_images(config: dict[str, Any], file: Path, folder: Path | None, seen: frozenset[str]) -> bool:
    if config.get("doc_to_image") is not None:
        return True
    if any(_has_images(_config(included), included, folder, seen) for included in _included(config, file)):
        return True
    members = config.get("task")
    for member in members if isinstance(members, list) else ():
        named = member
        if isinstance(member, dict):
            if _has_images(member, file, folder, seen):
                return True
            named = member.get("group") or member.get("task")
        if isinstance(named, str) and _takes_images(named, folder, seen):
            return True
    return False


def _included(config: dict[str, Any], file: Path) -> Iterator[Path]:
    found = config.get("include")
    for path in found if isinstance(found, list) else [found]:
        if isinstance(path, str) and (included := file.parent / path) != file:
            yield included


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's files without the functions that they name."""


_Loader.add_multi_constructor("!", lambda _loader, suffix, _node: f"!{suffix}")


def _config(file: Path) -> dict[str, Any]:
    try:
        found = yaml.load(file.read_bytes(), _Loader)  # a SafeLoader
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
