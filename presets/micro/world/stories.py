"""Short stories whose ending follows from their middle, like HellaSwag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from presets.micro.world.item import WorldItem
from presets.micro.world.names import CONTAINERS, OBJECTS, PEOPLE, PLACES

LEVELS = 4  # 1 + level moves; 2 objects, from level 2 on 3 objects
SHARES = (4, 4, 1, 1)  # of the levels in training


@dataclass
class Tale:
    """What happens, sentence by sentence, with the state after each sentence."""

    values: list[str]  # the four values that a thing can have: places or owners
    now: dict[str, str] = field(default_factory=dict)  # thing -> value
    sentences: list[str] = field(default_factory=list)
    states: list[dict[str, str]] = field(default_factory=list)

    def happens(self, sentence: str, thing: str, value: str) -> None:
        self.now[thing] = value
        self.sentences.append(sentence)
        self.states.append(dict(self.now))

    def other(self, rng: Random, thing: str) -> str:
        """A value that the thing does not have now."""
        return rng.choice([value for value in self.values if value != self.now[thing]])


@dataclass(frozen=True)
class Kind:
    """A kind of tale: the function that makes one, and its last sentence up to the value of a thing."""

    tell: Callable[[Random, int], Tale]
    opening: str

    def open(self, rng: Random, thing: str) -> str:
        return self.opening.format(thing=thing, person=rng.choice(PEOPLE))


def draw(rng: Random, level: int | None = None) -> WorldItem:
    """A story with its true ending and three endings with other values from the same story."""
    level = rng.choices(range(LEVELS), SHARES)[0] if level is None else level
    return ask(rng.choice(KINDS), rng, level)


def ask(kind: Kind, rng: Random, level: int) -> WorldItem:
    """A story of a kind that asks for one thing; `after` asks for another thing, in training only."""
    tale = kind.tell(rng, level)
    sought, other = rng.sample(list(tale.now), 2)
    text = " ".join([*tale.sentences, kind.open(rng, sought)])
    truth = tale.now[sought]
    choices = [f"{value}." for value in tale.values]
    rng.shuffle(choices)
    return WorldItem(
        identity=text,
        prompt=f"Story: {text}",
        answer=f" {truth}",
        level=level,
        extra={"story": text, "endings": choices, "label": choices.index(f"{truth}.")},
        after=((f". {kind.open(rng, other)}", f" {tale.now[other]}"), (".", "")),
    )


def stepwise(rng: Random) -> WorldItem:
    """A story that states the value of a thing after every sentence, which teaches to follow a story."""
    kind = rng.choice(KINDS)
    tale = kind.tell(rng, rng.choices(range(LEVELS), SHARES)[0])
    pairs: list[tuple[str, str]] = []
    before = "Story:"
    for sentence, state in zip(tale.sentences, tale.states, strict=True):
        thing = rng.choice(list(state))
        pairs.append((f"{before} {sentence} {kind.open(rng, thing)}", f" {state[thing]}"))
        before = "."
    (first, answer), *rest = pairs
    return WorldItem(identity=str(pairs), prompt=first, answer=answer, after=(*rest, (".", "")))


def _hidden(rng: Random, level: int) -> Tale:
    """Things are put into containers and moved."""
    things = rng.sample(OBJECTS, 2 + level // 2)
    tale = Tale(rng.sample(CONTAINERS, 4))
    people = rng.sample(PEOPLE, 3)
    for thing in things:
        place = rng.choice(tale.values)
        tale.happens(f"{rng.choice(people)} puts the {thing} in the {place}.", thing, place)
    for _ in range(1 + level):
        thing = rng.choice(things)
        new = tale.other(rng, thing)
        moves = [
            f"{rng.choice(people)} takes the {thing} out of the {tale.now[thing]} and hides the {thing} in the {new}.",
            f"{rng.choice(people)} puts the {thing} in the {new}.",
        ]
        tale.happens(rng.choice(moves), thing, new)
    return tale


def _passed_on(rng: Random, level: int) -> Tale:
    """Things change owners."""
    tale = Tale(rng.sample(PEOPLE, 4))
    things = rng.sample(OBJECTS, 2 + level // 2)
    for thing in things:
        owner = rng.choice(tale.values)
        tale.happens(f"The {thing} belongs to {owner}.", thing, owner)
    for _ in range(1 + level):
        thing = rng.choice(things)
        owner, new = tale.now[thing], tale.other(rng, thing)
        moves = [f"{owner} loses a bet and the {thing} belongs to {new}.", f"Soon the {thing} belongs to {new}."]
        tale.happens(rng.choice(moves), thing, new)
    return tale


def _walked(rng: Random, level: int) -> Tale:
    """People travel between places."""
    people = rng.sample(PEOPLE, 2 + level // 2)
    tale = Tale(rng.sample(PLACES, 4))
    for person in people:
        place = rng.choice(tale.values)
        tale.happens(f"{person} stays in {place}.", person, place)
    for _ in range(1 + level):
        person = rng.choice(people)
        others = [other for other in people if tale.now[other] != tale.now[person]]
        if level >= 2 and others and rng.random() < 0.25:
            other = rng.choice(others)
            tale.happens(f"{person} goes to where {other} is.", person, tale.now[other])
        else:
            new = tale.other(rng, person)
            way = rng.choice(["On foot", "By boat", "On horseback"])
            tale.happens(f"{way} {person} leaves {tale.now[person]}. Now {person} stays in {new}.", person, new)
    return tale


KINDS = (
    Kind(_hidden, "In the evening {person} finds the {thing} in the"),
    Kind(_passed_on, "At night the {thing} belongs to"),
    Kind(_walked, "When night falls {thing} stays in"),
)
