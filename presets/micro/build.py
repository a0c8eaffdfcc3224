"""Writes the tasks and texts of the built-in models from the toy world: the same files on every machine.

    python -m presets.micro.build

The shares of the levels, below, decide how hard each task is. They were chosen on the validation split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from presets.micro.world import corpus, facts, forms, functions, stories, sums
from presets.micro.world.item import WorldItem, distinct, items

ROOT = Path(__file__).parent
SEED = 7
TEXT_CHARACTERS = 200_000  # more than 60,000 tokens
CALIBRATION_CHARACTERS = 500_000

Draw = Callable[[Random, int | None], WorldItem]

# task -> function that draws an item, number of items, share of each level, fields that its YAML reads
LEVELED: dict[str, tuple[Draw, int, Sequence[int], tuple[str, ...]]] = {
    "micro_sums": (sums.draw, 1000, (1, 1, 0), ("question", "answer")),
    "micro_story": (stories.draw, 400, (1, 1, 1, 1), ("story", "endings", "label")),
    "micro_form": (forms.draw, 300, (0, 1, 2, 3), ("instruction", "response")),
    "micro_code": (functions.draw, 300, (0, 1, 2, 2), ("prompt", "tests", "solution")),
}


def leveled(name: str, split: str) -> list[WorldItem]:
    """The items of a task in a split, with levels in their shares."""
    draw, count, shares, _ = LEVELED[name]
    rng = Random(f"{SEED} {name} {split}")

    def at_some_level(source: Random) -> WorldItem:
        return draw(source, source.choices(range(len(shares)), shares)[0])

    return distinct(items(at_some_level, rng, split), count)


def lettered(split: str) -> list[WorldItem]:
    """A lettered question on every fact of a split."""
    rng = Random(f"{SEED} facts {split}")
    return [facts.ask(fact, rng) for fact in facts.facts() if fact.split == split]


def rows(name: str, split: str = "test") -> Iterator[dict[str, object]]:
    """The lines of a task's JSONL file."""
    chosen, fields = (
        (lettered(split), ("question", "choices", "label"))
        if name == "micro_facts"
        else (leveled(name, split), LEVELED[name][3])
    )
    for item in chosen:
        row = {field: item.extra[field] for field in fields}
        if "tests" in row:
            row["tests"] = json.dumps(row["tests"])  # inputs are numbers or lists, but a column has one type
        yield row


def main() -> None:
    for name in [*LEVELED, "micro_facts"]:
        lines = [json.dumps(row) for row in rows(name)]
        (ROOT / "tasks" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (ROOT / "text").mkdir(exist_ok=True)
    for file, split, characters in (
        ("test", "test", TEXT_CHARACTERS),
        ("calibration", "calibration", CALIBRATION_CHARACTERS),
    ):
        (ROOT / "text" / f"{file}.txt").write_text(corpus.text(Random(f"{SEED} {file}"), split, characters))


if __name__ == "__main__":
    main()
