"""The names that lm-eval's files declare: tasks, groups and tags. Files that come with this program are among them.

The lines of the files are searched. lm-eval's own index parses their YAML, which takes ten seconds for 14,000 files.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import presets
from converters.errors import InputError

_NAME = rb'["\']?([^\s"\'#\[\],]+)'
_DECLARED = re.compile(rb'^["\']?(?:task|group)["\']?[ \t]*:[ \t]*' + _NAME, re.MULTILINE)
_TAGS = re.compile(rb'^["\']?tag["\']?[ \t]*:([^\n]*(?:\n[ \t]*-[^\n]*)*)', re.MULTILINE)
_TAG = re.compile(rb"(?:^[ \t]*(?:-[ \t]+)?|[,\[][ \t]*)" + _NAME, re.MULTILINE)
_WITH_YAML = ("", ".yaml")  # files that others include have no suffix
NEAREST = 3  # names that an error message lists


def likely_folders(name: str) -> Iterator[Path]:
    """The directory of this program's task files if it has the task, then directories of lm-eval with the name of the
    task, or of its beginning: most tasks are in one of them."""
    if is_own(name):
        yield presets.VISION_TASKS
    for beginning in dict.fromkeys((name, name.partition("_")[0], name.partition("-")[0])):
        if beginning and "/" not in beginning and (home() / beginning).is_dir():
            yield home() / beginning


def is_own(name: str) -> bool:
    """Whether the task's file comes with this program and not with lm-eval."""
    return name in _declarations(presets.VISION_TASKS)


def folder_of(name: str) -> Path | None:
    """The directory of the file that declares a task or a group; None if there is no such file."""
    return _declarations(home()).get(name)


def is_known(name: str) -> bool:
    """Whether lm-eval has a task, a group or a tag of this name."""
    return any(name in _declarations(folder) or name in _tags(folder) for folder in (*likely_folders(name), home()))


def declaring_files(name: str, folder: Path | None = None) -> list[Path]:
    """The files that declare a task or group, or tasks with this tag: in `folder`, or else lm-eval's own."""
    if folder is not None:  # files that may change while the program runs
        return _declaring(name, {file: file.read_bytes() for file in sorted(folder.glob("*.yaml"))})
    places = (*likely_folders(name), home())
    return next((found for place in places if (found := _declaring(name, _contents(place)))), [])


def _declaring(name: str, contents: Mapping[Path, bytes]) -> list[Path]:
    return [
        path
        for path, content in contents.items()
        if path.suffix == ".yaml" and name.encode() in (*_DECLARED.findall(content), *_tags_in(content))
    ]


def unknown_task(name: str, others: Iterable[str] = ()) -> InputError:
    """The error for a name that is neither one of `others` nor known to lm-eval. It lists the nearest names."""
    names = list(dict.fromkeys([*others, *_declarations(presets.VISION_TASKS), *_declarations(home()), *_tags(home())]))
    near = difflib.get_close_matches(name, names, NEAREST) or sorted(
        (known for known in names if name and known.lower().startswith(name.lower())), key=len
    )
    hint = f"did you mean {', '.join(near[:NEAREST])}?" if near else "`lm_eval ls tasks` lists all tasks"
    return InputError(f"unknown task {name!r}; {hint}")


@functools.cache
def home() -> Path:
    """lm-eval's directory of tasks."""
    spec = importlib.util.find_spec("lm_eval")  # not lm_eval.tasks, for which lm_eval would be imported
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "tasks"


@functools.cache
def _contents(folder: Path) -> dict[Path, bytes]:
    """The content of every file that may declare a name, by its path."""
    paths = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return {path: path.read_bytes() for path in paths if path.suffix in _WITH_YAML}


@functools.cache
def _declarations(folder: Path) -> dict[str, Path]:
    """Name -> directory of every task and group below `folder`."""
    return {
        name.decode(): path.parent
        for path, content in _contents(folder).items()
        if path.suffix == ".yaml"
        for name in _DECLARED.findall(content)
    }


@functools.cache
def _tags(folder: Path) -> frozenset[str]:
    """Every tag below `folder`."""
    return frozenset(name.decode() for content in _contents(folder).values() for name in _tags_in(content))


def _tags_in(content: bytes) -> list[bytes]:
    return [name for found in _TAGS.findall(content) for name in _TAG.findall(found.strip())]
