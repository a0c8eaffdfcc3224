"""Every method by the prefix of its variants' names. A method is added by its line here, or by `register`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from converters.errors import InputError
from sweep.extensions import load_extensions
from sweep.jobs.base import Ask
from sweep.jobs.given import Origin
from sweep.jobs.settings import Settings
from sweep.lazy import import_object
from sweep.methods.base import PlannedSize, Variant

_METHODS: dict[str, str | type[Variant]] = {
    "": "sweep.methods.gguf:Quant",
    "gguf": "sweep.methods.gguf:GGUFFile",
    "hub": "sweep.methods.gguf:HubGGUF",
    "int8": "sweep.methods.int8:Int8",
    "fq": "sweep.methods.int8:FakeQuant",
    "torch": "sweep.methods.torch:TorchFloat",
}


def register(prefix: str, method: type[Variant]) -> None:
    """Add a method whose variants are called PREFIX:SPEC."""
    _METHODS[prefix] = method


def method(name: str) -> type[Variant]:
    """Of the variant of this name, as plans hold it; what has no known prefix is GGUF."""
    load_extensions()
    prefix, colon, _ = name.partition(":")
    known = _METHODS.get(prefix if colon else "", _METHODS[""])
    found: type[Variant] = import_object(known) if isinstance(known, str) else known
    return found


def methods() -> list[type[Variant]]:
    """All of them."""
    load_extensions()
    return [method(f"{prefix}:" if prefix else "") for prefix in _METHODS]


def parse(text: str) -> Variant:
    """The variant of this name: a quant, `gguf:PATH`, `hub:REPO/FILE`, `int8:` or `fq:` and a recipe (see int8.recipe)
    or its file, `torch:BF16`, or what an extension adds. Raises InputError."""
    text = text.strip()
    prefix, colon, _ = text.partition(":")
    load_extensions()
    if colon and prefix not in _METHODS:
        *known, last = [one.usage for one in methods()]
        raise InputError(f"{text}: no variant has the prefix '{prefix}:'; known are {', '.join(known)} and {last}")
    return method(text).parse(text)


def parse_list(texts: Sequence[str]) -> list[Variant]:
    """The variants of a list, each once; two files of the same name are told apart by where they are."""
    variants: list[Variant] = []
    for text in texts:
        variant = parse(text)
        if any(replace(known, name=variant.name) == variant for known in variants):
            continue
        if any(known.name == variant.name for known in variants):
            variant = replace(variant, name=variant.told_apart(text.strip()))
        variants.append(variant)
    return variants


def with_baselines(variants: Sequence[Variant]) -> list[Variant]:
    """Those that are compared with the sweep's reference first; then, of each other baseline, that, asked for or not,
    and what is compared with it."""
    found = [variant for variant in variants if variant.baseline is None]
    for baseline in dict.fromkeys(variant.baseline for variant in variants if variant.baseline is not None):
        own = [variant for variant in variants if variant.baseline == baseline and variant.name != baseline]
        found += [parse(baseline), *own]
    return found


def fetched(variants: Sequence[Variant], say: Callable[[str], None], download: bool) -> list[Variant]:
    """See Variant.fetched."""
    return [variant.fetched(say, download) for variant in variants]


def predicted(
    variants: Sequence[Variant], origin: Origin, settings: Settings, imatrix: bool, ask: Ask
) -> dict[str, PlannedSize]:
    """What variants take that are not made yet, by name. Raises InputError, MissingRuntime."""
    found: dict[str, PlannedSize] = {}
    for kind in dict.fromkeys(type(variant) for variant in variants):
        own = [variant for variant in variants if type(variant) is kind]
        found |= kind.predicted(own, origin, settings, imatrix, ask)
    return found
