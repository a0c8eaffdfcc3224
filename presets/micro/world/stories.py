"""Short stories whose ending follows from their middle: the HellaSwag of this world."""

from __future__ import annotations

from random import Random

from presets.micro.world.item import Item
from presets.micro.world.names import CONTAINERS, OBJECTS, PEOPLE, PLACES

LEVELS = 4  # 1 + level moves, 2 objects, from level 2 on 3


def draw(rng: Random, level: int | None = None) -> Item:
    """A story, its true ending and three that name other things of the same story."""
    level = rng.randrange(LEVELS) if level is None else level
    return rng.choice([_hidden, _passed_on, _walked])(rng, level)


def _story(
    opening: list[str],
    moves: list[str],
    before: str,
    endings: list[str],
    level: int,
    rng: Random,
    after: list[tuple[str, str]],
) -> Item:
    text = " ".join([*opening, *moves, before])
    choices = list(endings)
    rng.shuffle(choices)
    return Item(
        identity=text,
        prompt=f"Story: {text}",
        answer=f" {endings[0]}",
        level=level,
        extra={"story": text, "endings": choices, "label": choices.index(endings[0])},
        after=tuple(after),
    )


def _hidden(rng: Random, level: int) -> Item:
    """Things are put into containers and moved; somebody looks for one of them."""
    things = rng.sample(OBJECTS, 2 + level // 2)
    places = rng.sample(CONTAINERS, 4)
    people = rng.sample(PEOPLE, 3)
    where = {}
    opening = []
    for thing in things:
        where[thing] = rng.choice(places)
        opening.append(f"{rng.choice(people)} puts the {thing} in the {where[thing]}.")
    moves = []
    for _ in range(1 + level):
        thing = rng.choice(things)
        new = rng.choice([place for place in places if place != where[thing]])
        moves.append(
            rng.choice(
                [
                    f"{rng.choice(people)} moves the {thing} from the {where[thing]} to the {new}.",
                    f"{rng.choice(people)} takes the {thing} out and puts it in the {new}.",
                ]
            )
        )
        where[thing] = new
    sought = rng.choice(things)
    seeker = rng.choice(people)
    truth = where[sought]
    endings = [f"It is in the {place}." for place in [truth, *[p for p in places if p != truth]]]
    after = [
        (f" Then {rng.choice(people)} looks for the {thing}.", f" It is in the {where[thing]}.")
        for thing in things
        if thing != sought
    ]
    return _story(opening, moves, f"In the evening {seeker} looks for the {sought}.", endings, level, rng, after)


def _passed_on(rng: Random, level: int) -> Item:
    """Things go from hand to hand; who has one of them at the end?"""
    people = rng.sample(PEOPLE, 4)
    things = rng.sample(OBJECTS, 2 + level // 2)
    owner = {thing: rng.choice(people) for thing in things}
    opening = [f"{owner[thing]} has a {thing}." for thing in things]
    moves = []
    for _ in range(1 + level):
        thing = rng.choice(things)
        new = rng.choice([person for person in people if person != owner[thing]])
        moves.append(
            rng.choice([f"{owner[thing]} gives the {thing} to {new}.", f"{new} gets the {thing} from {owner[thing]}."])
        )
        owner[thing] = new
    wanted = rng.choice(things)
    truth = owner[wanted]
    endings = [f"{person} has it." for person in [truth, *[p for p in people if p != truth]]]
    after = [
        (f" Then they ask who has the {thing}.", f" {owner[thing]} has it.") for thing in things if thing != wanted
    ]
    return _story(opening, moves, f"At night everybody asks who has the {wanted}.", endings, level, rng, after)


def _walked(rng: Random, level: int) -> Item:
    """People travel between places; where does one of them sleep?"""
    people = rng.sample(PEOPLE, 2 + level // 2)
    places = rng.sample(PLACES, 4)
    at = {}
    opening = []
    for person in people:
        at[person] = rng.choice(places)
        opening.append(f"{person} wakes up in {at[person]}.")
    moves = []
    for _ in range(1 + level):
        person = rng.choice(people)
        others = [other for other in people if other != person and at[other] != at[person]]
        if level >= 2 and others and rng.random() < 0.25:
            other = rng.choice(others)
            at[person] = at[other]
            moves.append(f"{person} goes to where {other} is.")
        else:
            at[person] = rng.choice([place for place in places if place != at[person]])
            moves.append(f"{person} {rng.choice(['walks', 'rides', 'sails'])} to {at[person]}.")
    sleeper = rng.choice(people)
    truth = at[sleeper]
    endings = [f"{sleeper} sleeps in {place}." for place in [truth, *[p for p in places if p != truth]]]
    after = [(f" {person} sleeps", f" in {at[person]}.") for person in people if person != sleeper]
    return _story(opening, moves, "Then night falls.", endings, level, rng, after)
