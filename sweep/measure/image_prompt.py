"""Prompts with images: the texts before, between and after them.

In the prompts of lm-eval each image has a placeholder. A vision model was trained with other markers around an image,
which its chat template writes. The n images of a prompt stand at its first n placeholders; any further one is text, and
so is every marker in the text of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from converters.errors import InputError
from sweep.measure.chat import ChatTemplateError, Message

PLACEHOLDER = "<image>"
BEFORE, IMAGE, AFTER = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
"""The markers of Qwen's vision models. `IMAGE` stands for one token of the image."""
_GUARD = chr(0xE000)  # for private use; it is never printed


class ChatPrompt(str):
    """A conversation in a chat template, without images. It can be written again with them."""

    messages: Sequence[Message]
    add_generation_prompt: bool

    @classmethod
    def of(cls, text: str, messages: Sequence[Message], add_generation_prompt: bool) -> ChatPrompt:
        prompt = cls(text)
        prompt.messages, prompt.add_generation_prompt = messages, add_generation_prompt
        return prompt


def text_pieces(prompt: str, images: int) -> list[str]:
    """The texts around the `images` of a prompt without a chat template.

    Raises InputError if it has fewer placeholders.
    """
    pieces = prompt.split(PLACEHOLDER, images)
    _require(len(pieces) - 1, images)
    last = len(pieces) - 1
    return [(AFTER if i else "") + piece + (BEFORE if i < last else "") for i, piece in enumerate(pieces)]


def chat_pieces(
    messages: Sequence[Message], images: int, render: Callable[[Sequence[dict[str, Any]]], str]
) -> list[str]:
    """The texts around the `images` of a conversation, whose template `render` fills in.

    Raises InputError if the user's messages have fewer placeholders, ChatTemplateError if the template writes no image.
    """
    guard = _GUARD
    while any(guard in message["content"] for message in messages):
        guard += _GUARD
    written: list[dict[str, Any]] = []
    left = images
    for message in messages:
        content = message["content"].replace(IMAGE, guard)  # otherwise it could not be told from that of an image
        found = content.split(PLACEHOLDER, left) if message["role"] == "user" else [content]
        left -= len(found) - 1
        written.append({**message, "content": content if len(found) == 1 else _parts(found)})
    _require(images - left, images)
    pieces = render(written).split(IMAGE)
    if len(pieces) - 1 != images:
        raise ChatTemplateError(
            f"the chat template writes {len(pieces) - 1} of {images} images, so it is not the template of a model that "
            "takes images"
        )
    return [piece.replace(guard, IMAGE) for piece in pieces]


def _parts(texts: Sequence[str]) -> list[dict[str, str]]:
    """The content of a message: texts with an image between any two."""
    parts = []
    for i, text in enumerate(texts):
        if i:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _require(placeholders: int, images: int) -> None:
    if placeholders < images:
        raise InputError(f"the prompt has {images} images, but {placeholders} placeholders ({PLACEHOLDER})")
