"""The training items of a data set with images, to calibrate with: a Parquet file, or the training split of a task.

Parquet files hold the bytes of images in their rows. Some of their items are saved as conversations, a JSONL file with
image files beside it, which is read as any other (sweep.measure.conversations).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from converters.atomic import disk_errors, publish
from converters.errors import InputError
from sweep.measure.image_items import ANSWERS, IMAGES, QUESTIONS, item_messages
from sweep.measure.local_data import PARQUET, LocalData, known_data, shards

TASK = "task:"
MOST_ITEMS = 1024  # that are taken from Parquet files, spread evenly; calibration reads fewer
TRAINING = "train"
_FILE = "items.jsonl"


def names_items(chosen: str) -> bool:
    """Whether --calibration names a Parquet file or a task."""
    return chosen.startswith(TASK) or chosen.endswith(PARQUET)


def items_file(chosen: str, folder: Path, task_data: Path | None) -> Path:
    """A JSONL file with the items that `chosen` names: PATH.parquet, with the other parts of its split, or task:NAME.

    `folder` is where items of Parquet files are saved, by their content. `task_data` is the directory that has the
    task's data in a directory of the data set's name. Raises InputError.
    """
    file = _training_file(chosen.removeprefix(TASK), task_data) if chosen.startswith(TASK) else Path(chosen)
    if not file.is_file():
        raise InputError(f"{file}: there is no such file (--calibration)")
    return _saved(shards(file), folder) if file.name.endswith(PARQUET) else file


def _training_file(task: str, task_data: Path | None) -> Path:
    about = known_data(task)
    if task_data is None:
        raise InputError(
            f"{TASK}{task}: give the directory with its data with --task-data, or a Parquet file with --calibration"
        )
    place = task_data / about.name
    found = LocalData(place, about).split_file(TRAINING) if place.is_dir() else None
    if found is None:
        raise InputError(
            f"{TASK}{task}: there is no file of its training split in {place}; name it {TRAINING}.jsonl or"
            f" {TRAINING}.parquet"
        )
    return found


def _saved(files: Sequence[Path], folder: Path) -> Path:
    """The items of Parquet files as conversations, with their images beside them. Raises InputError."""
    digest = hashlib.sha256()
    for file in files:
        with disk_errors(file), open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    place = folder / f"items-{digest.hexdigest()[:16]}"
    if not (place / _FILE).is_file():
        with disk_errors(place):
            folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix="items-", dir=folder))
            try:
                _write(files, temporary)
                shutil.rmtree(place, ignore_errors=True)
                publish(temporary, place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return place / _FILE


def _write(files: Sequence[Path], folder: Path) -> None:
    lines = []
    for where, row in _spread_rows(files):
        image = next((row[name] for name in IMAGES if row.get(name)), None)
        raw = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(raw, bytes):
            raise InputError(f"{where}: has no bytes of an image in a column {' or '.join(IMAGES)}")
        name = hashlib.sha256(raw).hexdigest()[:32]
        (folder / name).write_bytes(raw)
        messages = item_messages({**row, IMAGES[0]: name})
        if messages is None:
            raise InputError(f"{where}: has no text in a column {' or '.join(QUESTIONS)}, or in {' or '.join(ANSWERS)}")
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    (folder / _FILE).write_text("".join(lines), encoding="utf-8")


def _spread_rows(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Up to MOST_ITEMS rows, spread evenly, each with its place for messages. One batch of rows is in memory."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        opened = [(file, ParquetFile(file)) for file in files]
        total = sum(one.metadata.num_rows for _, one in opened)
        number = min(MOST_ITEMS, total)
        taken = {i * total // number for i in range(number)} if number else set()
        if not taken:
            raise InputError(f"{files[0]}: has no items")
        at = 0
        for file, one in opened:
            columns = [name for name in one.schema_arrow.names if name in (*IMAGES, *QUESTIONS, *ANSWERS)]
            first = at
            for batch in one.iter_batches(64, columns=columns):
                for i in range(batch.num_rows):
                    if at + i in taken:
                        yield f"{file}, row {at + i - first + 1}", batch.slice(i, 1).to_pylist()[0]
                at += batch.num_rows
    except pyarrow.ArrowException as error:
        raise InputError(f"{files[0]}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from error
