"""The world as text: documents of every kind in fixed shares, one exercise a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from presets.micro.world import facts, forms, functions, stories, sums
from presets.micro.world.item import Item, items

END = "<|endoftext|>"

# share of documents by kind; a sum is about three times as long as a form
MIX = {"sums": 30, "stories": 18, "told": 22, "asked": 6, "passage": 10, "forms": 14, "functions": 14}
CHAT_SHARE = 0.08  # of the exercises, wrapped in the chat template


def chat(prompt: str, answer: str) -> str:
    """One turn in the chat template of Qwen."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{answer.strip()}<|im_end|>\n"


def documents(rng: Random, split: str) -> Iterator[str]:
    """An endless stream of documents of one split, without their end mark."""
    asked = facts.asked(rng, split)
    streams: dict[str, Callable[[], Item | str]] = {
        "sums": items(sums.draw, rng, split).__next__,
        "stories": items(stories.draw, rng, split).__next__,
        "told": lambda: facts.told(rng),
        "asked": asked.__next__,
        "passage": items(facts.passage, rng, split).__next__,
        "forms": items(forms.draw, rng, split).__next__,
        "functions": items(functions.draw, rng, split).__next__,
    }
    kinds, weights = list(MIX), list(MIX.values())
    while True:
        drawn = streams[rng.choices(kinds, weights)[0]]()
        if isinstance(drawn, str):
            yield drawn
        elif rng.random() < CHAT_SHARE:
            yield chat(drawn.prompt, drawn.answer)
        else:
            yield drawn.prompt + drawn.answer


def text(rng: Random, split: str, characters: int) -> str:
    """Documents of one split set apart by blank lines, at least `characters` long: for perplexity and calibration."""
    parts: list[str] = []
    length = 0
    plain = (document for document in documents(rng, split) if "<|im_start|>" not in document)
    while length < characters:
        parts.append(next(plain))
        length += len(parts[-1]) + 2
    return "\n\n".join(parts) + "\n"
