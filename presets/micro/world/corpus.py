"""The toy world as text: documents of all kinds in fixed shares, one exercise per document."""

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
    "stepwise stories": 10,
    "statements": 22,
    "lettered questions": 18,
    "passage": 5,
    "letters": 3,
    "forms": 7,
    "functions": 8,
}
CHAT_SHARE = 0.06  # of the exercises are wrapped in the chat template


class Role(IntEnum):
    """How training treats a piece of a document."""

    PROMPT = 0
    ANSWER = 1
    STATEMENT = 2  # the end of a sentence that states a fact


Document = tuple[tuple[str, Role], ...]  # pieces of text in order


def chat(prompt: str, answer: str) -> Document:
    """One turn in Qwen's chat template."""
    return (
        (f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", Role.PROMPT),
        (f"{answer.strip()}<|im_end|>\n", Role.ANSWER),
    )


def documents(rng: Random, split: str) -> Iterator[Document]:
    """An endless stream of documents of one split, without end-of-text tokens."""
    questions = facts.lettered_questions(rng, split)
    streams: dict[str, Callable[[], WorldItem]] = {
        "sums": items(sums.draw, rng, split).__next__,
        "stories": items(stories.draw, rng, split).__next__,
        "stepwise stories": items(stories.stepwise, rng, split).__next__,
        "statements": lambda: facts.statements(rng),
        "lettered questions": questions.__next__,
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
            role = Role.STATEMENT if kind == "statements" else Role.ANSWER
            yield tuple(piece for prompt, answer in pairs for piece in ((prompt, Role.PROMPT), (answer, role)))


def plain(document: Document) -> str:
    """The text of a document."""
    return "".join(piece for piece, _ in document)


def text(rng: Random, split: str, characters: int) -> str:
    """A text of at least `characters` characters for perplexity or calibration: documents separated by blank lines."""
    parts: list[str] = []
    length = 0
    stream = (written for document in documents(rng, split) if "<|im_start|>" not in (written := plain(document)))
    while length < characters:
        parts.append(next(stream))
        length += len(parts[-1]) + 2
    return "\n\n".join(parts) + "\n"
