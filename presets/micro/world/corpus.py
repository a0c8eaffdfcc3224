"""The world as text: documents of every kind in fixed shares, one exercise a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from presets.micro.world import facts, forms, functions, stories, sums
from presets.micro.world.item import Item, items

END = "<|endoftext|>"

# share of documents by kind
MIX = {
    "sums": 24,
    "stories": 20,
    "told": 16,
    "asked": 6,
    "passage": 14,
    "letters": 6,
    "forms": 16,
    "functions": 14,
}
CHAT_SHARE = 0.06  # of the exercises, wrapped in the chat template

Document = tuple[tuple[str, bool], ...]  # pieces of text in order, and whether each is an answer


def chat(prompt: str, answer: str) -> Document:
    """One turn in the chat template of Qwen."""
    return (
        (f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", False),
        (f"{answer.strip()}<|im_end|>\n", True),
    )


def documents(rng: Random, split: str) -> Iterator[Document]:
    """An endless stream of documents of one split, without their end mark. What is told counts as an answer."""
    asked = facts.asked(rng, split)
    streams: dict[str, Callable[[], Item | str]] = {
        "sums": items(sums.draw, rng, split).__next__,
        "stories": items(stories.draw, rng, split).__next__,
        "told": lambda: facts.told(rng),
        "asked": asked.__next__,
        "passage": items(facts.passage, rng, split).__next__,
        "letters": items(facts.letters, rng, split).__next__,
        "forms": items(forms.draw, rng, split).__next__,
        "functions": items(functions.draw, rng, split).__next__,
    }
    kinds, weights = list(MIX), list(MIX.values())
    while True:
        drawn = streams[rng.choices(kinds, weights)[0]]()
        if isinstance(drawn, str):
            yield ((drawn, True),)
        elif rng.random() < CHAT_SHARE:
            yield chat(drawn.prompt, drawn.answer)
        else:
            pairs = ((drawn.prompt, drawn.answer), *drawn.after)
            yield tuple(piece for prompt, answer in pairs for piece in ((prompt, False), (answer, True)))


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
