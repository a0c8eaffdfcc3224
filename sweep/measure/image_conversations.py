"""Conversations with images, for calibration: see `sweep.measure.conversations` for their form.

A conversation is a sample and is not cut. Lines without an image are allowed: a model that is to answer without images
too should read some.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from converters.checkpoint import read_config
from converters.errors import InputError
from images.file import ImageFile, open_image
from images.preprocessing import Preprocessing, read_preprocessing
from int8.calibration_text import FEWEST_TOKENS, LENGTH, SAMPLES
from sweep.measure.chat import render_chat
from sweep.measure.conversations import Conversation, read_conversations
from sweep.measure.image_prompt import AFTER, BEFORE, IMAGE

if TYPE_CHECKING:
    from int8.samples import ImagePrompt, ImagePrompts
    from sweep.measure.texts import TextVocabulary

MOST_TOKENS = SAMPLES * LENGTH  # that are read if no number of samples is given, as of a text
Item = TypeVar("Item")


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


def _texts(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        yield from (part["text"] for part in _parts(message) if part["type"] == "text")


def _parts(message: dict[str, Any]) -> list[dict[str, str]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
