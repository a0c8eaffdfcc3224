"""Facts about invented people, places and things, told in prose and asked by letter: the MMLU of this world.

Every fact is told in training. Some facts are also asked by letter there; those of the validation and test splits are
told only, so answering them by letter needs both the fact and the form. Facts are told with frequencies that fall as
1 / rank, so that some are known well and some barely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from presets.micro.world import names
from presets.micro.world.item import Item

SEED = 20_26
ASKED = {"train": 0.40, "calibration": 0.04, "validation": 0.08, "test": 0.48}  # of all facts


@dataclass(frozen=True)
class Attribute:
    """A property: its values, how it is asked, and the sentences that tell it."""

    values: list[str]
    question: str
    told: list[str]


PERSON = [
    Attribute(
        names.PLACES[:12],
        "Where does {e} live?",
        [
            "{e} lives in {v}.",
            "The home of {e} is in {v}.",
            "In {v} stands the house of {e}.",
            "{e} comes home to {v}.",
        ],
    ),
    Attribute(
        names.CRAFTS,
        "What is the craft of {e}?",
        ["{e} works as a {v}.", "{e} is a {v}.", "The craft of {e} is that of a {v}.", "People know {e} as the {v}."],
    ),
    Attribute(
        names.PETS,
        "Which animal does {e} keep?",
        ["{e} keeps a {v}.", "The animal of {e} is a {v}.", "{e} feeds a {v}.", "A {v} belongs to {e}."],
    ),
    Attribute(
        names.FOODS,
        "What does {e} like to eat?",
        ["{e} likes to eat {v}.", "The favourite food of {e} is {v}.", "{e} eats {v} every day.", "{e} asks for {v}."],
    ),
]
PLACE = [
    Attribute(
        names.COLOURS,
        "What colour are the roofs of {e}?",
        ["The roofs of {e} are {v}.", "{e} has {v} roofs.", "From afar {e} looks {v}.", "They paint {e} {v}."],
    ),
    Attribute(
        names.TRADES,
        "What does {e} sell?",
        ["{e} sells {v}.", "The trade of {e} is {v}.", "Ships carry {v} from {e}.", "Merchants buy {v} in {e}."],
    ),
    Attribute(
        names.MONTHS,
        "When is the feast of {e}?",
        [
            "The feast of {e} is in {v}.",
            "In {v} all of {e} dances.",
            "{e} has its feast in {v}.",
            "{v} is the month of {e}.",
        ],
    ),
]
THING = [
    Attribute(
        names.METALS,
        "What is {e} made of?",
        [
            "{e} is made of {v}.",
            "They made {e} of {v}.",
            "{v} is what {e} is made of.",
            "It took much {v} to make {e}.",
        ],
    ),
    Attribute(
        names.PEOPLE[:12],
        "Who made {e}?",
        ["{v} made {e}.", "{e} is the work of {v}.", "{e} was made by {v}.", "The maker of {e} is {v}."],
    ),
    Attribute(
        names.PLACES[12:24],
        "Where can one see {e}?",
        ["One can see {e} in {v}.", "{e} stands in {v}.", "{v} is where {e} stands.", "Travellers visit {v} for {e}."],
    ),
]


@dataclass(frozen=True)
class Fact:
    entity: str
    attribute: Attribute
    value: str
    split: str
    weight: float

    def tell(self, rng: Random) -> str:
        sentence = rng.choice(self.attribute.told).format(e=self.entity, v=self.value)
        return sentence[0].upper() + sentence[1:]

    def question(self) -> str:
        return self.attribute.question.format(e=self.entity)


@cache
def facts() -> tuple[Fact, ...]:
    """All facts, each with its value, split and weight; the same on every machine."""
    rng = Random(SEED)
    pairs = [
        (entity, attribute)
        for entities, attributes in ((names.PEOPLE, PERSON), (names.PLACES, PLACE), (names.THINGS, THING))
        for entity in entities
        for attribute in attributes
    ]
    rng.shuffle(pairs)
    splits = [name for name, share in ASKED.items() for _ in range(round(share * len(pairs)))]
    splits += ["train"] * (len(pairs) - len(splits))
    rng.shuffle(splits)
    return tuple(
        Fact(entity, attribute, rng.choice(attribute.values), split, 1 / (40 + rng.randrange(len(pairs))))
        for (entity, attribute), split in zip(pairs, splits, strict=False)
    )


def ask(fact: Fact, rng: Random) -> Item:
    """The fact as a question with four lettered answers."""
    wrong = rng.sample([value for value in fact.attribute.values if value != fact.value], 3)
    return _lettered(fact.question(), fact.value, wrong, rng)


def _lettered(question: str, truth: str, wrong: list[str], rng: Random, passage: str = "") -> Item:
    choices = [truth, *wrong]
    rng.shuffle(choices)
    label = choices.index(truth)
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    return Item(
        identity=f"{passage}{question}",
        prompt=f"{passage}Question: {question}\n{lines}\nAnswer:",
        answer=f" {'ABCD'[label]}",
        extra={"question": question, "choices": choices, "label": label},
    )


def asked(rng: Random, split: str) -> Iterator[Item]:
    """An endless stream of lettered questions on the facts of one split, three at a time."""
    pool = [fact for fact in facts() if fact.split == split]
    while True:
        first, *rest = (ask(fact, rng) for fact in rng.sample(pool, 3))
        yield replace(first, after=tuple((f"\n{item.prompt}", item.answer) for item in rest))


def told(rng: Random) -> str:
    """A paragraph that tells a few facts, the frequent ones often."""
    pool = facts()
    chosen = rng.choices(pool, weights=_weights(), k=rng.randint(4, 9))
    return " ".join(fact.tell(rng) for fact in chosen)


@cache
def _weights() -> list[float]:
    return [fact.weight for fact in facts()]


def passage(rng: Random) -> Item:
    """A passage about someone unknown and a lettered question that it answers: the form without the knowledge.

    The name is made up from syllables, so that nothing said here touches the facts of the world.
    """
    attributes = rng.choice([PERSON, PLACE, THING])
    entity = "".join(rng.choice(["ba", "do", "ki", "lu", "me", "no", "ra", "si", "to", "ve"]) for _ in range(3)).title()
    told_about = rng.sample(attributes, min(len(attributes), rng.randint(1, 3)))
    values = {attribute.question: rng.choice(attribute.values) for attribute in told_about}
    sentences = []
    for attribute in told_about:
        sentence = rng.choice(attribute.told).format(e=entity, v=values[attribute.question])
        sentences.append(sentence[0].upper() + sentence[1:])
    sought = rng.choice(told_about)
    truth = values[sought.question]
    wrong = rng.sample([value for value in sought.values if value != truth], 3)
    item = _lettered(sought.question.format(e=entity), truth, wrong, rng, passage=f"{' '.join(sentences)}\n")
    after = []
    for attribute in told_about:
        if attribute is not sought:
            truth = values[attribute.question]
            wrong = rng.sample([value for value in attribute.values if value != truth], 3)
            other = _lettered(attribute.question.format(e=entity), truth, wrong, rng)
            after.append((f"\n{other.prompt}", other.answer))
    return replace(item, after=tuple(after))


def letters(rng: Random) -> Item:
    """Which letter stands before a word? The form alone, several times over."""
    asked = []
    for _ in range(4):
        values = rng.choice(rng.choice([PERSON, PLACE, THING])).values
        truth, *wrong = rng.sample(values, 4)
        asked.append(_lettered(f"Which letter is {truth}?", truth, wrong, rng))
    first, *rest = asked
    identity = " ".join(item.prompt for item in asked)
    return replace(first, identity=identity, after=tuple((f"\n{item.prompt}", item.answer) for item in rest))
