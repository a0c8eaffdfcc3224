"""Reads files of conversations: JSONL, one conversation per line, in the form that chat templates take.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}

A message of a vision model can have parts:

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "?"}]}]}

Paths of images are relative to the file. A line may also be an item of a task with images (see image_items).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InputError
from sweep.measure.image_items import item_messages
from sweep.measure.plain_text import read_text

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Conversation:
    """A line of the file: `where` for messages, its messages without the images, and the paths of these in order."""

    where: str
    messages: tuple[dict[str, Any], ...]
    images: tuple[Path, ...]


def lines_of(path: Path) -> list[str]:
    """The lines of a JSONL file. Characters such as U+2028, at which str.splitlines splits, may stand in JSON strings.
    Raises InputError as `read_text` does."""
    return read_text(path).split("\n")


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of a file. Raises InputError that names the line for anything else, and for an image that is
    not a file."""
    lines = enumerate(lines_of(path), 1)
    return [_conversation(f"{path}, line {number}", line, path.parent) for number, line in lines if line.strip()]


def _conversation(where: str, line: str, folder: Path) -> Conversation:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is not a conversation, because it is no JSON: {error}") from error
    messages = (row.get("messages") or item_messages(row)) if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise InputError(f'{where}: is not a conversation; write each line as {{"messages": [{{"role": ...}}, ...]}}')
    images: list[Path] = []
    written = [{**message, "content": _content(where, message, folder, images)} for message in messages]
    return Conversation(where, tuple(written), tuple(images))


def _content(where: str, message: dict[str, Any], folder: Path, images: list[Path]) -> str | list[dict[str, str]]:
    """A message's content with parts as a template takes them; the paths of images are added to `images`."""
    if message.get("role") not in _ROLES:
        raise InputError(f"{where}: a message's role is {message.get('role')!r}; it must be one of {', '.join(_ROLES)}")
    content = message.get("content")
    if isinstance(content, str) or (content is None and message.get("tool_calls")):  # a call of a tool needs no text
        return content or ""
    if not isinstance(content, list):
        raise InputError(f"{where}: a message's content is neither a text nor a list of parts")
    parts: list[dict[str, str]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind in ("image", "image_url"):
            images.append(_image_path(where, part, folder))
            parts.append({"type": "image"})
        else:
            raise InputError(
                f'{where}: a part of a message is neither {{"type": "text", "text": ...}} nor'
                ' {"type": "image", "image": PATH}'
            )
    return parts


def _image_path(where: str, part: dict[str, Any], folder: Path) -> Path:
    stated = part.get(part["type"])
    if isinstance(stated, dict):  # OpenAI's form
        stated = stated.get("url")
    if not isinstance(stated, str) or not stated or "://" in stated or stated.startswith("data:"):
        shown = repr(stated)[:60]
        raise InputError(f"{where}: an image is {shown}; give the path of a file")
    path = folder / stated
    if not path.is_file():
        raise InputError(f"{where}: {path}: there is no such image file")
    return path
