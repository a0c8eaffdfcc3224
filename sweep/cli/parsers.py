"""Reads option values that are more than a number or a word. A bad value raises typer.BadParameter."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from presets.advice import Tolerance
from sweep.kv_cache import KVCache
from sweep.target import Target

if TYPE_CHECKING:
    from sweep.fit.image_tokens import ImageSize

_UNITS = {"": 1} | {
    unit + suffix: base**power
    for power, unit in enumerate("KMGT", 1)
    for suffix, base in (("", 1000), ("B", 1000), ("iB", 1024))
}


def byte_count(text: str) -> int:
    """Bytes of `24GiB` (powers of 1024), of `40G` or `40GB` (powers of 1000, as in llama.cpp), or of a plain number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    factor = {unit.lower(): value for unit, value in _UNITS.items()}.get(found[2].lower()) if found else None
    if found is None or factor is None or float(found[1]) * factor < 1:
        raise typer.BadParameter(f"{text!r} is not a size; write it as 24GiB, 40G or 500M")
    return int(float(found[1]) * factor)


def cache_size(text: str) -> int:
    """A size as `byte_count` reads it; `0` turns the cache off."""
    return 0 if text.strip() == "0" else byte_count(text)


def tolerance(text: str | None) -> Tolerance | None:
    """`2`: two percentage points; `5%`: five percent of the reference's score above chance; None if it is not given."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    if found is None or not 0 < float(found[1]) < 100:
        raise typer.BadParameter(
            f"--tolerance {text!r} is not a loss; write it as 2 (points) or 5% (of the score above chance)"
        )
    return Tolerance(float(found[1]) / 100, bool(found[2]))


def bound(option: str, example: str) -> Callable[[str | None], float | None]:
    """Reads the number of an option of a target, which must be positive; None if it is not given."""

    def read(text: str | None) -> float | None:
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise typer.BadParameter(f"{option} {text!r} is not a positive number; write it as {option} {example}")
        return value

    return read


min_tps = bound("--min-tps", "30")
max_kld = bound("--max-kld", "0.02")


def min_recovery(text: str | None) -> float | None:
    """`95` or `95%`: the share 0.95 of the reference's task score; None if it is not given."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text.strip())
    if found is None or not 0 < float(found[1]) <= 100:
        raise typer.BadParameter(
            f"--min-recovery {text!r} is not a percentage above 0 and up to 100; write it as --min-recovery 95"
        )
    return float(found[1]) / 100


def target(tps: str | None, kld: str | None, recovery: str | None) -> Target:
    """The target of --min-tps, --max-kld and --min-recovery."""
    return Target(min_tps(tps), max_kld(kld), min_recovery(recovery))


def export(text: str | None) -> str | None:
    """`ollama` or `ollama:Q4_K_M`. Raises InputError for an unknown kind."""
    if text is not None:
        from sweep.report.serving_files import parse_export

        parse_export(text)
    return text


def comma_list(text: str | None) -> tuple[str, ...] | None:
    """The names of `a, b`; None if the option is not given."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def text_list(texts: list[str] | None) -> tuple[Path, ...]:
    """The texts of an option that can be repeated: files or names, each value one or several with commas. A file whose
    name has a comma is one."""
    found: list[str] = []
    for text in texts or ():
        whole = Path(text).expanduser().exists()
        found += [text] if whole else [part.strip() for part in text.split(",") if part.strip()]
    return tuple(Path(name).expanduser() for name in found)


def depths(text: str | None) -> tuple[int, ...]:
    """`0,4096`: numbers of tokens; empty if the option is not given."""
    found = [] if text is None else [part.strip() for part in text.split(",") if part.strip()]
    if (text is not None and not found) or not all(re.fullmatch(r"\d{1,9}", part) for part in found):
        raise typer.BadParameter(f"--depth {text!r} is not a list of numbers of tokens; write it as 4096,16384")
    return tuple(int(part) for part in found)


def tensor_split(text: str | None) -> tuple[float, ...]:
    """`3,1`: the share of the model on each GPU, in any unit; empty if the option is not given."""
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not any(found) or not all(0 <= share < float("inf") for share in found):
        raise typer.BadParameter(f"--tensor-split {text!r} is not a list of shares; write it as 3,1")
    return found


def image_size(text: str) -> ImageSize:
    """`1280x960`: width and height in pixels; `4x1280x960`: four images of this size."""
    from sweep.fit.image_tokens import ImageSize  # loads numpy, which --help does not need

    found = re.fullmatch(r"(?:(\d{1,9})x)?(\d{1,9})x(\d{1,9})", text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"--image {text!r} is not a size; write it as 1280x960 or, for four, 4x1280x960")
    return ImageSize(int(found[2]), int(found[3]), int(found[1] or 1))


def kv_cache(text: str | None) -> KVCache:
    """`q8_0`: the type of K and of V; `f16,q8_0`: of each. The default types if the option is not given."""
    return KVCache() if text is None else KVCache.parse(text)
