"""Reads a text from a file, and saves a text of a Hugging Face data set as a file."""

from __future__ import annotations

import codecs
import io
from pathlib import Path

from converters.atomic import AtomicFile
from converters.errors import InputError
from converters.hub_reachable import is_reachable
from sweep.measure.hub_access import hub_access, unreachable


def read_text(path: Path) -> str:
    """The content of a text file, with "\n" at the ends of lines. Raises InputError as `text_bytes` does."""
    return io.TextIOWrapper(io.BytesIO(text_bytes(path)), encoding="utf-8").read()


def text_bytes(path: Path) -> bytes:
    """The bytes of a text file. Raises InputError if they are not UTF-8 or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return checked_text(content, str(path))


def checked_text(content: bytes, name: str) -> bytes:
    """The bytes of a text, if they are UTF-8 text. `name` is for the message. Raises InputError."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        what = "UTF-16, not UTF-8 text" if utf16 else f"not UTF-8 text (byte {error.start})"
        raise InputError(f"{name}: {what}; convert it first") from error
    if (at := content.find(0)) >= 0:  # valid UTF-8, but no text has it
        raise InputError(f"{name}: not UTF-8 text (byte {at} is 0, as in UTF-16 and in binary files); convert it first")
    return content


def save_text(path: str, name: str, split: str, file: Path, option: str = "--perplexity") -> None:
    """Write the rows of the column `text` of a data set's split to `file`, joined as in the original text file.

    `path` and `name` are those of the data set and its configuration. Raises InputError if the data set is not
    available, with the name of the `option` that takes a file instead.
    """
    from datasets import load_dataset

    try:
        with hub_access(allowed=True):
            rows = load_dataset(path, name, split=split)
    except Exception as error:  # the client raises many types, and all of them mean that the text is not available
        reason = str(error).splitlines()[0] if is_reachable() else unreachable()
        raise InputError(f"the text {path}/{name} is not available ({reason}); give one with {option} FILE") from error
    with AtomicFile(file, make_parents=True) as out:
        for row in rows:
            out.write(row["text"].encode())
