"""Conversations with images, for calibration: JSONL whose messages have parts, as chat templates of vision models do.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "?"}]}]}

Paths of images are relative to the file. A conversation is a sample and is not cut. Lines without an image are allowed:
a model that is to answer without images too should read some. A line may also be an item of a task (see image_items).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from converters.checkpoint import read_config
from converters.errors import InputError
from images.file import ImageFile, open_image
from images.preprocessing import Preprocessing, read_preprocessing
from int8.calibration_text import FEWEST_TOKENS, LENGTH, SAMPLES
from sweep.measure.chat import render_chat
from sweep.measure.image_items import item_messages
from sweep.measure.image_prompt import AFTER, BEFORE, IMAGE
from sweep.measure.plain_text import read_text

if TYPE_CHECKING:
    from int8.samples import ImagePrompt, ImagePrompts
    from sweep.measure.texts import TextVocabulary

MOST_TOKENS = SAMPLES * LENGTH  # that are read if no number of samples is given, as of a text
_ROLES = ("system", "user", "assistant", "tool")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Conversation:
    """A line of the file: `where` for messages, its messages without the images, and the paths of these in order."""

    where: str
    messages: tuple[dict[str, Any], ...]
    images: tuple[Path, ...]


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of a file. Raises InputError that names the line for anything else, and for an image that is
    not a file."""
    lines = enumerate(read_text(path).splitlines(), 1)
    return [_conversation(f"{path}, line {number}", line, path.parent) for number, line in lines if line.strip()]


def images_identity(path: Path) -> str:
    """A hash of the images' bytes, in order. Raises InputError as `read_conversations` does."""
    found = hashlib.sha256()
    digests: dict[Path, bytes] = {}
    for one in read_conversations(path):
        for image in one.images:
            if image not in digests:
                try:
                    digests[image] = hashlib.sha256(image.read_bytes()).digest()
                except OSError as error:
                    raise InputError(f"{one.where}: {image}: the image cannot be read ({error.strerror})") from error
            found.update(digests[image])
    return found.hexdigest()


def image_prompts(
    path: Path, vocabulary: TextVocabulary, checkpoint: Path, count: int | None = None, length: int | None = None
) -> ImagePrompts:
    """The conversations as prompts of the model in the directory `checkpoint`, in its chat template if it has one.

    `count` of them are taken, spread evenly over the file; by default as many as have MOST_TOKENS, up to SAMPLES. With
    `length`, one with more tokens is an error. Raises InputError that names the line.
    """
    from int8.samples import ImagePrompts

    config = read_config(checkpoint)
    token = config.get("image_token_id")
    if not isinstance(config.get("vision_config"), dict) or not isinstance(token, int):
        raise InputError(f"{path}: has images, but {checkpoint.name} has no vision tower; give a text")
    writer = _Writer(vocabulary, token, read_preprocessing(checkpoint))
    conversations = read_conversations(path)
    if count is not None and count > len(conversations):
        raise InputError(f"{path}: has {len(conversations)} conversations, too few for {count} samples; use fewer")
    prompts = [writer.prompt(one, length) for one in _spread(conversations, count or SAMPLES)]
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    if count is None:
        if tokens < FEWEST_TOKENS:
            raise InputError(
                f"{path}: too short to calibrate with: its conversations have {tokens} tokens, with those of images,"
                f" but at least {FEWEST_TOKENS} are needed"
            )
        prompts = _spread(prompts, max(1, len(prompts) * MOST_TOKENS // max(tokens, MOST_TOKENS)))
    return ImagePrompts(tuple(prompts), token, writer.preprocessing)


def _spread(found: Sequence[Item], most: int) -> list[Item]:
    """Up to `most` of these, spread evenly."""
    number = min(most, len(found))
    return [found[i * len(found) // number] for i in range(number)]


class _Writer:
    """Turns conversations into tokens."""

    def __init__(self, vocabulary: TextVocabulary, image_token: int, preprocessing: Preprocessing) -> None:
        self._vocabulary, self._token, self.preprocessing = vocabulary, image_token, preprocessing
        self._opened: dict[Path, ImageFile] = {}

    def prompt(self, one: Conversation, length: int | None) -> ImagePrompt:
        from int8.samples import ImagePrompt

        images = [self._open(one.where, path) for path in one.images]
        tokens: list[int] = []
        for i, piece in enumerate(self._pieces(one)):
            if i:
                tokens += [self._token] * self.preprocessing.grid(images[i - 1]).tokens
            tokens += self._vocabulary.tokenize(piece, parse_special=True).tolist()
        if length is not None and len(tokens) > length:
            raise InputError(
                f"{one.where}: has {len(tokens)} tokens, with those of images, more than {length}; conversations with"
                " images are not cut"
            )
        return ImagePrompt(tuple(tokens), tuple(images))

    def _pieces(self, one: Conversation) -> list[str]:
        """The texts before, between and after the images."""
        if any(IMAGE in text for text in _texts(one.messages)):
            raise InputError(f"{one.where}: a text has {IMAGE}, which stands for an image; leave it out")
        try:
            written = self._written(one.messages)
        except InputError as error:
            raise InputError(f"{one.where}: {error}") from error
        pieces = written.split(IMAGE)
        if len(pieces) - 1 != len(one.images):
            raise InputError(
                f"{one.where}: the chat template writes {len(pieces) - 1} of {len(one.images)} images, so it is not the"
                " template of a model that takes images"
            )
        return pieces

    def _written(self, messages: Sequence[dict[str, Any]]) -> str:
        """In the chat template; without one, the contents one after the other."""
        if self._vocabulary.chat_template:
            return render_chat(self._vocabulary, messages, add_generation_prompt=False, complete=True)
        return "".join(
            BEFORE + IMAGE + AFTER if part["type"] == "image" else part["text"]
            for message in messages
            for part in _parts(message)
        )

    def _open(self, where: str, path: Path) -> ImageFile:
        if path not in self._opened:
            image = open_image(path, f"{where}: {path}")
            self.preprocessing.grid(image)  # rejects extreme shapes
            self._opened[path] = image
        return self._opened[path]


def _conversation(where: str, line: str, folder: Path) -> Conversation:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: this is no JSON: {error}") from error
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
    if isinstance(content, str):
        return content
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


def _texts(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        yield from (part["text"] for part in _parts(message) if part["type"] == "text")


def _parts(message: dict[str, Any]) -> list[dict[str, str]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
