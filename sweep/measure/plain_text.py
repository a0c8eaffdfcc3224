"""Texts: read from a file, and fetched out of a data set of the hub as one file."""

from __future__ import annotations

from pathlib import Path

from converters.atomic import WholeFile
from converters.errors import InputError


def read_text(path: Path) -> str:
    """A text file's content. Raises InputError where it is no UTF-8 or cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def save_text(path: str, name: str, split: str, file: Path, option: str = "--perplexity") -> None:
    """Write the `text` rows of a dataset's split, joined as the raw file had them.

    Raises InputError offline, naming the `option` that takes a file.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(path, name, split=split)
    except Exception as error:  # the client raises a dozen kinds, all of which mean that the text cannot be had
        reason = str(error).splitlines()[0]
        raise InputError(f"the text {path}/{name} cannot be had ({reason}); give one with {option} FILE") from error
    with WholeFile(file, make_parents=True) as out:
        for row in rows:
            out.write(row["text"].encode())
