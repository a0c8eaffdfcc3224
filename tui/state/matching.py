"""Which name of a list a typed text means: the one rule of every window with a search."""

from __future__ import annotations

import re
from collections.abc import Sequence

Choice = tuple[str, str]  # name, description

_NAMED = 4  # the last rank that follows from the name alone


def ranked(typed: str, choices: Sequence[Choice]) -> list[Choice]:
    """The choices that have every typed word in their name or description, the likeliest first."""
    words = typed.lower().split()
    found = [choice for choice in choices if all(word in " ".join(choice).lower() for word in words)]
    found += [choice for choice in choices if choice not in found and _rank(typed, choice) == 0]
    return sorted(found, key=lambda choice: _rank(typed, choice))


def equal(typed: str, choices: Sequence[Choice]) -> str | None:
    """The name that `typed` is, without regard to upper and lower case, spaces and punctuation."""
    names = [name for name, _ in choices]
    return typed if typed in names else next((name for name in names if _words(name) == _words(typed)), None)


def meant(typed: str, choices: Sequence[Choice]) -> str | None:
    """The name that `typed` means: the one that it is, else the likeliest. None if several are as likely, or none.

    The likeliest name begins with the text; else it has the typed words as whole words; else its words begin with them;
    else it contains them; else the description does.
    """
    name, found = equal(typed, choices), ranked(typed, choices)
    if name is not None or not found:
        return name
    best = [choice for choice in found if _rank(typed, choice) == _rank(typed, found[0])]
    return best[0][0] if len(best) == 1 else None


def _rank(typed: str, choice: Choice) -> int:
    """How likely the text means this choice; 0: it is its name."""
    name, words = _words(choice[0]), _words(typed)
    if words == name:
        return 0
    if name[: len(words)] == words:
        return 1
    if set(words) <= set(name):
        return 2
    if all(any(own.startswith(word) for own in name) for word in words):
        return 3
    return _NAMED if all(word in choice[0].lower() for word in typed.lower().split()) else _NAMED + 1


def _words(text: str) -> list[str]:
    """Letters and numbers: "RTX 3060 12GB" gives rtx, 3060, 12, gb."""
    return re.findall(r"[^\W\d_]+|\d+", text.lower())
