"""GPUs by name: memory, what of it a program can have, and bandwidth (gpus.toml, and there where each is from)."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "gpus.toml"
GIB = 1 << 30
NEAR = 0.25  # how far the memory that a driver states may be from a card's, as a share, and it is still that card

# Words that tell no two cards apart, so that they may be left out.
_MAKERS = frozenset("nvidia geforce tesla amd radeon instinct intel apple rtx gtx rx arc r tm gpu graphics".split())
_FILLING = frozenset("generation edition workstation with design data center".split())


@dataclass(frozen=True)
class Gpu:
    """A card, or one of its `devices` where it shows as several. Bytes, and bytes a second.

    `kind` is llama.cpp's backend for it; `usable_known`, whether what a program can have is known of this card, or else
    reckoned as its series' share; `source` where the figures come from, `driver` the words of its driver's name for it.
    """

    name: str
    series: str
    kind: str
    memory_bytes: int
    usable_bytes: int
    usable_known: bool
    bandwidth: float
    devices: int
    source: str
    driver: frozenset[str]


@cache
def gpus() -> Mapping[str, Gpu]:
    """The cards by name, in the order of the file."""
    with open(_FILE, "rb") as file:
        content = tomllib.load(file)
    listed = [gpu for series in content["series"] for card in series["cards"] for gpu in _card(series, card)]
    return {gpu.name: gpu for gpu in listed}


def _card(series: Mapping[str, Any], card: Mapping[str, Any]) -> list[Gpu]:
    several = isinstance(card["memory"], list)
    return [
        Gpu(
            name=f"{card['name']} {memory}GB" if several else card["name"],
            series=series["name"],
            kind=series["kind"],
            memory_bytes=memory * GIB,
            usable_bytes=int(card.get("usable", memory * series["share"]) * GIB),
            usable_known="usable" in card,
            bandwidth=card["bandwidth"] * 1e9,
            devices=card.get("devices", 1),
            source=series["source"],
            driver=_words(_SIZE.sub(" ", card.get("driver", card["name"]))),
        )
        for memory in (card["memory"] if several else [card["memory"]])
    ]


def having(text: str) -> list[Gpu]:
    """The cards whose names, or their series', have words that begin with all of `text`: "A100", "rtx 40", "Apple"."""
    words = _all_words(text)

    def has(gpu: Gpu, word: str) -> bool:
        return any(own.startswith(word) for own in _all_words(f"{gpu.series} {gpu.name}"))

    return [gpu for gpu in gpus().values() if all(has(gpu, word) for word in words)]


def called(text: str) -> list[Gpu]:
    """The cards that `text` can mean: "4090", "rtx4090" and "NVIDIA GeForce RTX 4090" are one card, "A100" several.

    The one whose words are just those; else those that differ by their memory alone; else all that have these words.
    """
    words = _words(text)
    if not words:
        return []
    those = [gpu for gpu in gpus().values() if words <= _words(gpu.name)]
    same = [gpu for gpu in those if words == _words(gpu.name)]
    return same or [gpu for gpu in those if words == _words(_SIZE.sub(" ", gpu.name))] or those


def nearest(text: str, count: int = 4) -> list[str]:
    """Names of cards that are written much like `text`."""
    known = {_key(name): name for name in gpus()}
    return [known[key] for key in difflib.get_close_matches(_key(text), known, n=count, cutoff=0.4)]


def of_device(description: str, total_bytes: int) -> Gpu | None:
    """The card that a driver describes so, with `total_bytes` of memory; None where no card is much like it."""
    words = _words(_SIZE.sub(" ", description))
    found = [
        (-len(gpu.driver), apart, gpu)
        for gpu in gpus().values()
        if gpu.driver <= words and (apart := abs(gpu.usable_bytes - total_bytes)) <= NEAR * total_bytes
    ]
    return min(found, key=lambda one: one[:2])[2] if found else None


_SIZE = re.compile(r"\b\d+ ?GB\b", re.I)


def _words(text: str) -> frozenset[str]:
    """What tells a card from others: "A100-SXM4-80GB" is {a, 100, sxm, 4, 80, gb}."""
    return _all_words(text) - _MAKERS - _FILLING


def _all_words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+|[0-9]+", text.lower()))


def _key(text: str) -> str:
    return "".join(re.findall(r"[a-z]+|[0-9]+", text.lower()))
