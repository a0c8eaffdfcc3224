"""A variant: one way of storing and running a model, as named on the command line and in presets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from converters.recipes import recipe


@dataclass(frozen=True)
class Variant:
    """`name` is what was asked for; `quant` is the recipe to export, or `file` a GGUF taken as it is."""

    name: str
    kind: str = "gguf"
    quant: str | None = None
    file: Path | None = None


def parse(text: str) -> Variant:
    """`Q4_K_M` and the other quants of converters.recipes, or `gguf:PATH`. Raises InputError for anything else."""
    text = text.strip()
    prefix, colon, rest = text.partition(":")
    if not colon:
        quant = recipe(text).name
        return Variant(name=quant, quant=quant)
    if prefix == "gguf":
        file = Path(rest).expanduser()
        if not file.is_file():
            raise InputError(f"{text}: there is no such file")
        return Variant(name=f"gguf:{file.name}", file=file.resolve())
    raise InputError(f"{text}: no variant has the prefix '{prefix}:'; known are quant names and gguf:PATH")


def parse_list(texts: list[str]) -> list[Variant]:
    """The variants of a list, each once; two files of the same name are told apart by their whole path."""
    variants: list[Variant] = []
    for text in texts:
        variant = parse(text)
        if any(known == variant for known in variants):
            continue
        if any(known.name == variant.name for known in variants):
            variant = Variant(name=f"gguf:{variant.file}", file=variant.file)
        variants.append(variant)
    return variants
