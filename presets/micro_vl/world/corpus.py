"""What the model reads: conversations about drawings, and documents of text.

Text is that of the toy world of `presets.micro`, and the content of drawings in words with the same questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from presets.micro.world import corpus as toy_world
from presets.micro.world.item import split_of
from presets.micro_vl.world import charts, forms, words

KINDS = {"vl_form": forms.FORM, "vl_chart": charts.CHART, "vl_words": words.LINE}
"""Task -> kind of its drawings."""

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
IN_WORDS_SHARE = 0.3  # of the documents of text describe a drawing
CHAT_SHARE = 0.06  # of these are in the chat template

Piece = tuple[str, bool]  # text, and whether it is an answer, which training teaches


def conversation(questions: Sequence[tuple[str, str]], chat: bool, opening: str = IMAGE) -> list[Piece]:
    """Questions about what `opening` shows, with their answers: in the chat template, or as plain lines."""
    pieces: list[Piece] = []
    for question, answer in questions:
        if chat:
            pieces.append((f"<|im_start|>user\n{opening}{question}<|im_end|>\n<|im_start|>assistant\n", False))
            pieces += [(f"{answer}<|im_end|>", True), ("\n", False)]
        else:
            pieces += [(opening + question, False), (f" {answer}\n", True)]
        opening = ""
    return pieces


def documents(rng: Random, split: str) -> Iterator[str]:
    """An endless stream of documents of text of one split."""
    others = toy_world.documents(rng, split)
    while True:
        if rng.random() >= IN_WORDS_SHARE:
            yield toy_world.plain(next(others))
            continue
        content = rng.choice((forms.FORM, charts.CHART)).choose(rng)
        if split_of(content.text) == split:
            asked = rng.sample(content.questions, rng.randint(1, len(content.questions)))
            pieces = conversation(asked, rng.random() < CHAT_SHARE, content.text + "\n")
            yield "".join(piece for piece, _ in pieces).rstrip("\n")


def exchanges(rng: Random, split: str) -> Iterator[list[tuple[str, str]]]:
    """An endless stream of conversations without images, of one split: what the user says, with the answers."""
    others = toy_world.documents(rng, split)
    while True:
        if rng.random() < IN_WORDS_SHARE:
            content = rng.choice((forms.FORM, charts.CHART)).choose(rng)
            if split_of(content.text) == split:
                first, *more = rng.sample(content.questions, rng.randint(1, len(content.questions)))
                yield [(f"{content.text}\n{first[0]}", first[1]), *more]
            continue
        pieces = [piece.strip() for piece, _ in next(others)]
        if all(pieces) and not any("<|im_start|>" in piece for piece in pieces):
            yield list(zip(pieces[::2], pieces[1::2], strict=True))


def text(rng: Random, split: str, characters: int) -> str:
    """A text of at least `characters` characters for perplexity or calibration: documents separated by blank lines."""
    parts: list[str] = []
    length = 0
    stream = (document for document in documents(rng, split) if "<|im_start|>" not in document)
    while length < characters:
        parts.append(next(stream))
        length += len(parts[-1]) + 2
    return "\n\n".join(parts) + "\n"
