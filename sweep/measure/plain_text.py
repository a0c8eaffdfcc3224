"""Reads a text from a file, and saves a text of a Hugging Face data set as a file."""

from __future__ import annotations

from pathlib import Path

from converters.atomic import AtomicFile
from converters.errors import InputError


def read_text(path: Path) -> str:
    """The content of a text file. Raises InputError if the file is not UTF-8 or cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def save_text(path: str, name: str, split: str, file: Path, option: str = "--perplexity") -> None:
    """Write the rows of the column `text` of a data set's split to `file`, joined as in the original text file.

    `path` and `name` are those of the data set and its configuration. Raises InputError if the data set is not
    available, with the name of the `option` that takes a file instead.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(path, name, split=split)
    except Exception as error:  # the client raises many types, and all of them mean that the text is not available
        reason = str(error).splitlines()[0]
        raise InputError(f"the text {path}/{name} is not available ({reason}); give one with {option} FILE") from error
    with AtomicFile(file, make_parents=True) as out:
        for row in rows:
            out.write(row["text"].encode())
