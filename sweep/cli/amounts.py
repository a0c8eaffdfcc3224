"""Amounts of bytes as people write them on a command line."""

from __future__ import annotations

import re

import typer

_UNITS = {"": 1} | {
    unit + suffix: base**power
    for power, unit in enumerate("KMGT", 1)
    for suffix, base in (("", 1000), ("B", 1000), ("iB", 1024))
}


def byte_count(text: str) -> int:
    """`24GiB` in powers of 1024; `40G` or `40GB` in powers of 1000, as llama.cpp's tools have it; or plain bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    factor = {unit.lower(): value for unit, value in _UNITS.items()}.get(found[2].lower()) if found else None
    if found is None or factor is None or float(found[1]) * factor < 1:
        raise typer.BadParameter(f"{text!r} is no amount of bytes; write it as 24GiB, 40G or 500M")
    return int(float(found[1]) * factor)


def shares(text: str | None) -> tuple[float, ...]:
    """`3,1`: what share of a model each of several GPUs gets."""
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not any(found) or not all(0 <= share < float("inf") for share in found):
        raise typer.BadParameter(f"--tensor-split {text!r} is no list of shares; write it as 3,1")
    return found
