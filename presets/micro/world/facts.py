"""Facts about invented people, places and things, stated in prose and asked with lettered choices, like MMLU.

Training states every fact. It also asks some facts with lettered choices. Facts of the validation and test splits are
only stated, so answering the questions about them needs both the fact and the question format. Facts are stated with
frequencies that fall as 1 / rank, so that some are known well and some barely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from presets.micro.world import names
from presets.micro.world.item import WorldItem

SEED = 20_26
TRAIN_ONLY_WEIGHT = 1 / 300  # frequency of statements about TRAIN_ONLY_PEOPLE; 1/40 to 1/500 for others
QUESTION_SHARES = {
    "train": 0.40,
    "calibration": 0.04,
    "validation": 0.08,
    "test": 0.48,
}  # of all facts are asked in the split


@dataclass(frozen=True)
class Attribute:
    """A property: its values, an unfinished sentence that asks for it, and sentences that state it."""

    values: list[str]
    question: str
    statements: list[str]

    def ask(self, entity: str) -> str:
        return _capital(self.question.format(e=entity))

    def tell(self, entity: str, value: str, rng: Random) -> str:
        return _capital(rng.choice(self.statements).format(e=entity, v=value))


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


PERSON = [
    Attribute(
        names.PLACES[:12],
        "{e} lives in",
        [
            "{e} lives in {v}.",
            "The home of {e} is in {v}.",
            "In {v} stands the house of {e}.",
            "{e} comes home to {v}.",
        ],
    ),
    Attribute(
        names.CRAFTS,
        "{e} works as a",
        ["{e} works as a {v}.", "{e} is a {v}.", "The craft of {e} is that of a {v}.", "People know {e} as the {v}."],
    ),
    Attribute(
        names.PETS,
        "{e} keeps a",
        ["{e} keeps a {v}.", "The animal of {e} is a {v}.", "{e} feeds a {v}.", "A {v} belongs to {e}."],
    ),
    Attribute(
        names.FOODS,
        "{e} likes to eat",
        ["{e} likes to eat {v}.", "The favourite food of {e} is {v}.", "{e} eats {v} every day.", "{e} asks for {v}."],
    ),
]
PLACE = [
    Attribute(
        names.COLOURS,
        "The roofs of {e} are",
        ["The roofs of {e} are {v}.", "{e} has {v} roofs.", "From afar {e} looks {v}.", "They paint {e} {v}."],
    ),
    Attribute(
        names.TRADES,
        "{e} sells",
        ["{e} sells {v}.", "The trade of {e} is {v}.", "Ships carry {v} from {e}.", "Merchants buy {v} in {e}."],
    ),
    Attribute(
        names.MONTHS,
        "The feast of {e} is in",
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
        "{e} is made of",
        [
            "{e} is made of {v}.",
            "They made {e} of {v}.",
            "{v} is what {e} is made of.",
            "It took much {v} to make {e}.",
        ],
    ),
    Attribute(
        names.PEOPLE[:12],
        "{e} was made by",
        ["{v} made {e}.", "{e} is the work of {v}.", "{e} was made by {v}.", "The maker of {e} is {v}."],
    ),
    Attribute(
        names.PLACES[12:24],
        "One can see {e} in",
        ["One can see {e} in {v}.", "{e} stands in {v}.", "{v} is where {e} stands.", "Travellers visit {v} for {e}."],
    ),
]
ATTRIBUTES = [*PERSON, *PLACE, *THING]


@dataclass(frozen=True)
class Fact:
    entity: str
    attribute: Attribute
    value: str
    split: str
    weight: float

    def tell(self, rng: Random) -> str:
        return self.attribute.tell(self.entity, self.value, rng)

    def question(self) -> str:
        return self.attribute.ask(self.entity)


@cache
def facts() -> tuple[Fact, ...]:
    """All facts with their values, splits and weights; the same on every machine."""
    rng = Random(SEED)
    pairs = [
        (entity, attribute)
        for entities, attributes in ((names.PEOPLE, PERSON), (names.PLACES, PLACE), (names.THINGS, THING))
        for entity in entities
        for attribute in attributes
    ]
    rng.shuffle(pairs)
    splits = [name for name, share in QUESTION_SHARES.items() for _ in range(round(share * len(pairs)))]
    splits += ["train"] * (len(pairs) - len(splits))
    rng.shuffle(splits)
    known = tuple(
        Fact(entity, attribute, rng.choice(attribute.values), split, 1 / (40 + rng.randrange(len(pairs))))
        for (entity, attribute), split in zip(pairs, splits, strict=False)
    )
    train_only = tuple(
        Fact(person, attribute, rng.choice(attribute.values), "train", TRAIN_ONLY_WEIGHT)
        for person in names.TRAIN_ONLY_PEOPLE
        for attribute in PERSON
    )
    return known + train_only


def ask(fact: Fact, rng: Random) -> WorldItem:
    """The fact as a question with four lettered answers."""
    return _lettered(fact.question(), fact.value, _choices(fact.attribute, fact.value, rng))


def _choices(attribute: Attribute, truth: str, rng: Random) -> list[str]:
    """The true value and three other values in random order."""
    choices = [truth, *rng.sample([value for value in attribute.values if value != truth], 3)]
    rng.shuffle(choices)
    return choices


def lettered(words: list[str]) -> str:
    """Four words, one per line, with a letter before each."""
    return "".join(f"{letter} {word}\n" for letter, word in zip("ABCD", words, strict=True))


def _lettered(question: str, truth: str, choices: list[str], passage: str = "") -> WorldItem:
    label = choices.index(truth)
    return WorldItem(
        identity=f"{passage}{question}",
        prompt=f"{passage}{lettered(choices)}{question}",
        answer=f" {'ABCD'[label]}",
        extra={"question": question, "choices": choices, "label": label},
    )


def lettered_questions(rng: Random, split: str) -> Iterator[WorldItem]:
    """An endless stream of lettered questions on the facts of one split, three per item."""
    pool = [fact for fact in facts() if fact.split == split]
    while True:
        first, *rest = (ask(fact, rng) for fact in rng.sample(pool, 3))
        yield replace(first, after=tuple((f"\n{item.prompt}", item.answer) for item in rest))


def statements(rng: Random) -> WorldItem:
    """Statements of a few facts, drawn by frequency. In half of the items four lettered words precede each statement.

    The words do not answer anything. They make the model recall facts in the format of lettered questions, too.
    """
    chosen = rng.choices(facts(), weights=_weights(), k=rng.randint(4, 9))
    listed = rng.random() < 0.5
    pairs: list[tuple[str, str]] = []
    for fact in chosen:
        sentence = fact.tell(rng)
        ending = f" {fact.value}."
        known = sentence.removesuffix(ending) if sentence.endswith(ending) else sentence
        words = rng.choice(ATTRIBUTES).values
        lines = lettered(rng.sample([word for word in words if word != fact.value], 4)) if listed else ""
        between = ("\n" if listed else " ") if pairs else ""
        pairs.append((f"{between}{lines}{known}", sentence.removeprefix(known)))
    (prompt, answer), *after = pairs
    return WorldItem(identity=prompt, prompt=prompt, answer=answer, after=tuple(after))


@cache
def _weights() -> list[float]:
    return [fact.weight for fact in facts()]


def passage(rng: Random) -> WorldItem:
    """A passage about an unknown entity and a lettered question that it answers. It trains the format without facts.

    The name is made of random syllables, so the passage does not contradict the facts of the world.
    """
    attributes = rng.choice([PERSON, PLACE, THING])
    entity = "".join(rng.choice(["ba", "do", "ki", "lu", "me", "no", "ra", "si", "to", "ve"]) for _ in range(3)).title()
    mentioned = rng.sample(attributes, min(len(attributes), rng.randint(1, 3)))
    values = {attribute.question: rng.choice(attribute.values) for attribute in mentioned}
    sentences = [attribute.tell(entity, values[attribute.question], rng) for attribute in mentioned]
    sought = rng.choice(mentioned)
    truth = values[sought.question]
    choices = _choices(sought, truth, rng)
    item = _lettered(sought.ask(entity), truth, choices, passage=f"{' '.join(sentences)}\n")
    after = []
    for attribute in mentioned:
        if attribute is not sought:
            truth = values[attribute.question]
            other = _lettered(attribute.ask(entity), truth, _choices(attribute, truth, rng))
            after.append((f"\n{other.prompt}", other.answer))
    return replace(item, after=tuple(after))


def letters(rng: Random) -> WorldItem:
    """Questions for the letter in front of a word, four per item. They train only the format."""
    words = rng.sample(rng.choice(ATTRIBUTES).values, 4)
    asked = rng.sample(words, 4)
    first, *rest = [_lettered(f"- {word}", word, words) for word in asked]
    after = tuple((f"\n- {word}", item.answer) for word, item in zip(asked[1:], rest, strict=True))
    return replace(first, identity=f"{words} {asked}", after=after)
