"""What a text for perplexity or calibration holds, and the tokens that a model makes of it.

By default special tokens in a text are plain text, as for llama-perplexity and llama-imatrix. A file of conversations
is written in the model's chat template, and then they are special tokens.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol

from converters.errors import InputError
from sweep.backends.base import Tokens
from sweep.measure.chat import ChatVocabulary, render_chat
from sweep.measure.conversations import Conversation, lines_of, read_conversations
from sweep.measure.image_items import item_messages
from sweep.measure.plain_text import read_text
from sweep.measure.text_form import TextForm

_MARKER = re.compile(r"<\|[^|\s<>]+\|>")


class TextVocabulary(ChatVocabulary, Protocol):
    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens: ...


def form_of(path: Path, parse_special: bool) -> TextForm:
    """The form of a file: conversations if it is JSONL that has a line with "messages", whatever `parse_special` says;
    with images if any message has one, or if its first line is an item of a task with images.

    Raises InputError if the file is not UTF-8 or cannot be read.
    """
    if path.suffix == ".jsonl":
        lines = lines_of(path)
        first = next((line for line in lines if line.strip()), "")
        if item_messages(_object(first)) is not None:
            return TextForm.IMAGES
        lines = [line for line in lines if '"messages"' in line]
        if any(isinstance(_object(line).get("messages"), list) for line in lines):
            return TextForm.IMAGES if any(map(_has_image, lines)) else TextForm.CONVERSATIONS
    return TextForm.SPECIAL if parse_special else TextForm.PLAIN


def marker_in(text: str) -> str | None:
    """The first characters in a text that are written as Qwen's special tokens, such as `<|im_start|>`."""
    found = _MARKER.search(text)
    return None if found is None else found.group()


def model_text(path: Path, form: TextForm, vocabulary: ChatVocabulary) -> str:
    """The text of a file as a model reads it. Raises InputError for a malformed file, and if a template fails."""
    if form is TextForm.IMAGES:
        raise InputError(f"{path}: has images, which only the calibration of torch variants reads; give a text here")
    if form is not TextForm.CONVERSATIONS:
        return read_text(path)
    if not vocabulary.chat_template:
        raise InputError(f"{path}: holds conversations, but the model has no chat template to write them in")
    return "".join(_rendered(one, vocabulary) for one in read_conversations(path))


def as_conversations(text: str, vocabulary: ChatVocabulary, where: str) -> str:
    """The paragraphs of a text as conversations of two messages in the model's chat template: from the user and from
    the assistant in turn. Raises InputError if there is no template, or if it fails."""
    if not vocabulary.chat_template:
        raise InputError(f"{where}: the model has no chat template to write conversations in")
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]
    return "".join(
        render_chat(
            vocabulary,
            [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}],
            add_generation_prompt=False,
            complete=True,
        )
        for asked, answered in zip(paragraphs[::2], paragraphs[1::2], strict=False)
    )


def text_tokens(path: Path, form: TextForm, vocabulary: TextVocabulary) -> Tokens:
    """The tokens of a file, int32 (n,), with BOS if the model adds it. Raises InputError as `model_text` does."""
    text = model_text(path, form, vocabulary)
    return vocabulary.tokenize(text, add_special=True, parse_special=form.parses_special)


def _rendered(one: Conversation, vocabulary: ChatVocabulary) -> str:
    try:
        return render_chat(vocabulary, one.messages, add_generation_prompt=False, complete=True)
    except InputError as error:
        raise InputError(f"{one.where}: {error}") from error


def _has_image(line: str) -> bool:
    """Whether a line is a conversation in which a message has an image."""
    if '"image' not in line:
        return False
    messages = _object(line).get("messages")
    contents = [one.get("content") for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and part.get("type") in ("image", "image_url") for part in parts)


def _object(line: str) -> dict[str, Any]:
    """The JSON object in a line; empty for anything else."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
