"""Local JSONL or Parquet files as the data set of lm-eval's own tasks: lm-eval's prompts and metrics, without the
network.

presets/tasks/data.toml lists which fields and files each data set has. A data set that is not listed must have the
fields under which it is published.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from converters.errors import InputError
from presets import DataForm, TaskData, task_data
from sweep.measure.item_images import undecoded

PARQUET = ".parquet"
SUFFIXES = (".jsonl", ".jsonl.gz", PARQUET)
SHARD = re.compile(r"-\d+-of-\d+(?=\.parquet$)")  # the number of a part of a split, as the hub writes it
SEVERAL = "*"  # in place of the name of a data set: a folder with several, for a group of tasks
# Split -> prefixes of the names of its files. Files of other splits begin with the name of the split.
FILE_PREFIXES = {"validation": ("val",), "train": ("train",), "test": ("test",), "dev": ("dev",)}

Row = dict[str, Any]


@dataclass(frozen=True)
class LocalData:
    """The files of one data set in `folder`; `about` describes the data set."""

    folder: Path
    about: TaskData

    def of(self, config: dict[str, Any]) -> LocalData:
        """The files for a task with this configuration, in a folder of several data sets or of several parts of one."""
        if self.about.name == SEVERAL:
            about = known_data(config["task"])
            return LocalData(self.folder / about.name, about).of(config)
        part = self.folder / str(config.get("dataset_name"))
        return replace(self, folder=part) if part.is_dir() and not _own_files(self.folder) else self

    def split_file(self, split: str | None) -> Path | None:
        """The file of a split ("test", "validation"...); None if there is none. Raises InputError if there are two."""
        if split is None:
            return None
        prefix = dict(self.about.files).get(split)
        prefixes = (prefix,) if prefix is not None else FILE_PREFIXES.get(split, (split,))
        found = [file for file in data_files(self.folder) if file.name.startswith(prefixes)]
        if len(found) > 1 and len({SHARD.sub("", file.name) for file in found}) > 1:
            raise InputError(f"{self.folder}: two files for the split '{split}': {found[0].name} and {found[1].name}")
        return found[0] if found else None

    def replace_data_set(self, config: dict[str, Any], num_fewshot: int | None) -> dict[str, Any]:
        """The configuration of a task of lm-eval with these files in place of its data set.

        The few-shot examples are the first items of the few-shot, training or validation split, and are the same for
        every question. If there is no such file, they are the first items of the scored file, which are then not
        scored. Raises InputError if the files do not fit the task.
        """
        own = self.of(config)
        if own != self:
            return own.replace_data_set(config, num_fewshot)
        task, about = config["task"], self.about
        known, needed = about.dataset, config.get("dataset_path")
        if known is not None and (needed != known or about.config not in (None, config.get("dataset_name"))):
            raise InputError(f"task {task}: it needs the data set {needed}, but {self.folder} contains {known}")
        names = {key: config.get(f"{key}_split") for key in ("fewshot", "training", "validation", "test")}
        files = {key: self.split_file(name) for key, name in names.items()}
        scored = files["test"] or files["validation"]
        if scored is None:
            split = names["test"] or names["validation"]
            raise InputError(
                f"{self.folder}: no file with the split '{split}' for task {task}; name the file {split}.jsonl"
            )
        rows, processed = self._rows(scored, config)
        shots = 0 if config.get("num_fewshot") == 0 else num_fewshot or config.get("num_fewshot") or 0
        fewshot = dict(config.get("fewshot_config") or {})
        examples: list[Row] = []
        if shots and "samples" not in fewshot:
            rows = list(rows)
            source = next((f for f in (files["fewshot"], files["training"], files["validation"]) if f), None)
            if source is None or source == scored:
                examples, rows = rows[:shots], rows[shots:]
            else:
                found, other = self._rows(source, config)
                examples = list(found)
                if other != processed:
                    raise InputError(f"{source}: its items have other fields than those of {scored.name}")
            if len(examples) < shots or not rows:
                raise InputError(f"{(source or scored)}: too few items for {shots} examples of task {task}")
            fewshot.setdefault("sampler", "first_n")
        return config | {
            "custom_dataset": _dataset(rows, examples),
            "dataset_kwargs": {},
            "training_split": None,
            "validation_split": None,
            "test_split": "test",
            "fewshot_split": "fewshot" if examples else None,
            "fewshot_config": fewshot or None,
            "process_docs": None if processed else config.get("process_docs"),
        }

    def _rows(self, file: Path, config: dict[str, Any]) -> tuple[Any, bool]:
        """The items of a task with the published fields, as a list or a Dataset, and whether the task's own preparation
        is already done."""
        rows: Any = _read_parquet(shards(file)) if file.suffix == PARQUET else read_jsonl(file)
        select = self.about.select
        if select is not None:
            rows = [row for row in rows if row.get(select) == config.get("dataset_name")]
        if not len(rows):
            condition = f" with {select} '{config.get('dataset_name')}'" if select else ""
            raise InputError(f"{file}: no item{condition} for task {config['task']}")
        form = next((form for form in self.about.forms if set(form.has) <= rows[0].keys()), None)
        if form is None:
            return rows, False
        return [_reformed(row, form, file) for row in rows], form.processed


def known_data(task: str) -> TaskData:
    """The data set that a task reads, which has the task's name if it is not in presets/tasks/data.toml."""
    known = (data for data in task_data().values() if any(fnmatchcase(task, pattern) for pattern in data.tasks))
    return next(known, TaskData(task))


def data_files(folder: Path) -> list[Path]:
    """The files with the items of a data set: those in a folder or, if it has none, those of its parts in folders."""
    return _own_files(folder) or [
        file for part in sorted(folder.iterdir()) if part.is_dir() for file in _own_files(part)
    ]


def _own_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIXES))


def shards(file: Path) -> list[Path]:
    """The files that have a split together with `file`, itself included, by name."""
    return [one for one in _own_files(file.parent) if SHARD.sub("", one.name) == SHARD.sub("", file.name)]


def _read_parquet(files: list[Path]) -> Any:
    """The rows of Parquet files in memory; nothing is written to a cache. Raises InputError."""
    import pyarrow
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from pyarrow import parquet

    tables = []
    for file in files:
        try:
            tables.append(parquet.read_table(file))
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{file}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from error
    return undecoded(Dataset(InMemoryTable(pyarrow.concat_tables(tables))))


def read_jsonl(file: Path) -> list[Row]:
    """The items of a JSONL file, one object per line. Raises InputError, which names the line that is not valid."""
    try:
        state = file.stat()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    return _read(file, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)  # the sub-tasks of a group read the same file
def _read(file: Path, _changed: int, _size: int) -> list[Row]:
    rows: list[Row] = []
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise InputError(f"{file}:{number}: not a JSON object")
                    rows.append(row)
    except (OSError, EOFError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    except ValueError as error:  # not valid JSON, or not valid UTF-8
        raise InputError(f"{file}:{len(rows) + 1}: not JSON in UTF-8 ({error})") from error
    return rows


def _reformed(row: Row, form: DataForm, file: Path) -> Row:
    try:
        return row | {name: _expression(text)(row) for name, text in form.fields}
    except Exception as error:  # the expression can raise anything if a field has an unexpected type
        raise InputError(f"{file}: an item has unexpected fields: {str(row)[:120]} ({error})") from error


@functools.cache
def _expression(text: str) -> Callable[[Row], Any]:
    from jinja2 import Undefined
    from jinja2.sandbox import SandboxedEnvironment

    compiled = SandboxedEnvironment().compile_expression(text, undefined_to_none=False)

    def evaluate(row: Row) -> Any:
        value = compiled(**row)
        if isinstance(value, Undefined):
            raise ValueError(f"it has no {text}")
        return value

    return evaluate


def _dataset(rows: Any, examples: list[Row]) -> Callable[..., Any]:
    def load(**_: object) -> Any:
        """The data set in memory: it writes no cache and does not use the network."""
        from datasets import Dataset, DatasetDict

        parts = {"test": Dataset.from_list(rows) if isinstance(rows, list) else rows}
        if examples:
            parts["fewshot"] = Dataset.from_list(examples)
        return DatasetDict(parts)

    return load
