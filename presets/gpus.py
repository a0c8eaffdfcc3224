"""GPUs by name: total and usable memory, and bandwidth. The data and their sources are in gpus.toml."""

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
MEMORY_TOLERANCE = 0.25  # largest relative difference of memory for a driver's device to be a GPU of the table

# Words that do not distinguish GPUs, so users may leave them out.
_BRAND_WORDS = frozenset(
    "nvidia geforce tesla amd radeon instinct intel apple rtx gtx rx arc r tm gpu graphics".split()
)
_FILLER_WORDS = frozenset("generation edition workstation with design data center".split())


@dataclass(frozen=True)
class Gpu:
    """A GPU, or one device of a card that shows as several `devices`. Sizes in bytes, bandwidth in bytes per second.

    `kind` is llama.cpp's backend for it. `usable_bytes` is the memory that a program can use; `usable_known` says
    whether it is known for this GPU or computed from the share of its series. `source` says where the figures come
    from. `driver` has the words of the driver's name for it.
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
    """Name -> GPU, in the order of the file."""
    with open(_FILE, "rb") as file:
        content = tomllib.load(file)
    listed = [gpu for series in content["series"] for entry in series["gpus"] for gpu in _sizes(series, entry)]
    return {gpu.name: gpu for gpu in listed}


def _sizes(series: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Gpu]:
    """The GPUs of an entry, one per memory size."""
    several = isinstance(entry["memory"], list)
    return [
        Gpu(
            name=f"{entry['name']} {memory}GB" if several else entry["name"],
            series=series["name"],
            kind=series["kind"],
            memory_bytes=memory * GIB,
            usable_bytes=int(entry.get("usable", memory * series["share"]) * GIB),
            usable_known="usable" in entry,
            bandwidth=entry["bandwidth"] * 1e9,
            devices=entry.get("devices", 1),
            source=series["source"],
            driver=_words(_SIZE.sub(" ", entry.get("driver", entry["name"]))),
        )
        for memory in (entry["memory"] if several else [entry["memory"]])
    ]


def search_gpus(text: str) -> list[Gpu]:
    """GPUs for which each word of `text` begins a word of the GPU's or its series' name: "A100", "rtx 40", "Apple"."""
    words = _all_words(text)

    def has(gpu: Gpu, word: str) -> bool:
        return any(own.startswith(word) for own in _all_words(f"{gpu.series} {gpu.name}"))

    return [gpu for gpu in gpus().values() if all(has(gpu, word) for word in words)]


def find_gpus(text: str) -> list[Gpu]:
    """The GPUs that `text` can mean. "4090", "rtx4090" and "NVIDIA GeForce RTX 4090" mean one GPU, "A100" several.

    The result is the GPU with exactly these words; if there is none, the GPUs that differ from them only by their
    memory size; if there are none, all GPUs whose names contain these words.
    """
    words = _words(text)
    if not words:
        return []
    containing = [gpu for gpu in gpus().values() if words <= _words(gpu.name)]
    exact = [gpu for gpu in containing if words == _words(gpu.name)]
    return exact or [gpu for gpu in containing if words == _words(_SIZE.sub(" ", gpu.name))] or containing


def similar_gpu_names(text: str, count: int = 4) -> list[str]:
    """Names of GPUs that are spelled like `text`."""
    known = {_key(name): name for name in gpus()}
    return [known[key] for key in difflib.get_close_matches(_key(text), known, n=count, cutoff=0.4)]


def gpu_of_device(description: str, total_bytes: int) -> Gpu | None:
    """The GPU that a driver calls `description`, with about `total_bytes` of memory; None if there is none."""
    words = _words(_SIZE.sub(" ", description))
    found = [
        (-len(gpu.driver), difference, gpu)
        for gpu in gpus().values()
        if gpu.driver <= words and (difference := abs(gpu.usable_bytes - total_bytes)) <= MEMORY_TOLERANCE * total_bytes
    ]
    return min(found, key=lambda one: one[:2])[2] if found else None


_SIZE = re.compile(r"\b\d+ ?GB\b", re.I)


def _words(text: str) -> frozenset[str]:
    """The words of a name that distinguish GPUs: "A100-SXM4-80GB" gives {a, 100, sxm, 4, 80, gb}."""
    return _all_words(text) - _BRAND_WORDS - _FILLER_WORDS


def _all_words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+|[0-9]+", text.lower()))


def _key(text: str) -> str:
    return "".join(re.findall(r"[a-z]+|[0-9]+", text.lower()))
