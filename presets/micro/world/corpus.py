"""The world as text: documents of every kind in fixed shares, one exercise a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from random import Random

from presets.micro.world import facts, forms, functions, stories, sums
from presets.micro.world.item import WorldItem, items

END = "<|endoftext|>"

# share of documents by kind
MIX = {
    "sums": 17,
    "stories": 18,
    "followed": 10,
    "told": 22,
    "asked": 18,
    "passage": 5,
    "letters": 3,
    "forms": 7,
    "functions": 8,
}
CHAT_SHARE = 0.06  # of the exercises, wrapped in the chat template


class Role(IntEnum):
    """What a piece of a document is to the training."""

    ASKED = 0
    ANSWER = 1
    TOLD = 2  # the end of a sentence that tells a fact


Document = tuple[tuple[str, Role], ...]  # pieces of text in order


def chat(prompt: str, answer: str) -> Document:
    """One turn in the chat template of Qwen."""
    return (
        (f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", Role.ASKED),
        (f"{answer.strip()}<|im_end|>\n", Role.ANSWER),
    )


def documents(rng: Random, split: str) -> Iterator[Document]:
    """An endless stream of documents of one split, without their end mark."""
    asked = facts.asked(rng, split)
    streams: dict[str, Callable[[], WorldItem]] = {
        "sums": items(sums.draw, rng, split).__next__,
        "stories": items(stories.draw, rng, split).__next__,
        "followed": items(stories.followed, rng, split).__next__,
        "told": lambda: facts.told(rng),
        "asked": asked.__next__,
        "passage": items(facts.passage, rng, split).__next__,
        "letters": items(facts.letters, rng, split).__next__,
        "forms": items(forms.draw, rng, split).__next__,
        "functions": items(functions.draw, rng, split).__next__,
    }
    kinds, weights = list(MIX), list(MIX.values())
    while True:
        kind = rng.choices(kinds, weights)[0]
        drawn = streams[kind]()
        if rng.random() < CHAT_SHARE:
            yield chat(drawn.prompt, drawn.answer)
        else:
            pairs = ((drawn.prompt, drawn.answer), *drawn.after)
            role = Role.TOLD if kind == "told" else Role.ANSWER
            yield tuple(piece for prompt, answer in pairs for piece in ((prompt, Role.ASKED), (answer, role)))


def plain(document: Document) -> str:
    """A document's text."""
    return "".join(piece for piece, _ in document)


def text(rng: Random, split: str, characters: int) -> str:
    """Documents of one split set apart by blank lines, at least `characters` long: for perplexity and calibration."""
    parts: list[str] = []
    length = 0
    stream = (written for document in documents(rng, split) if "<|im_start|>" not in (written := plain(document)))
    while length < characters:
        parts.append(next(stream))
        length += len(parts[-1]) + 2
    return "\n\n".join(parts) + "\n"
