"""The table of methods by the prefix of their variants' names. To add a method, add a line here or call `register`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from converters.errors import InputError
from ptq.recipe import PREFIXES as PTQ_PREFIXES
from sweep.extensions import load_extensions
from sweep.jobs.base import RunJob
from sweep.jobs.inputs import Origin
from sweep.jobs.settings import Settings
from sweep.lazy import import_object
from sweep.methods.base import PredictedSize, Variant
from sweep.variant_name import prefix_of, split_cache, split_projector

_METHODS: dict[str, str | type[Variant]] = {
    "": "sweep.methods.gguf:Quant",
    "mix": "sweep.methods.gguf:OwnMix",
    "gguf": "sweep.methods.gguf:GGUFFile",
    "hub": "sweep.methods.gguf:HubGGUF",
    "int8": "sweep.methods.int8:Int8",
    "fq": "sweep.methods.int8:FakeQuant",
    "torch": "sweep.methods.torch:TorchFloat",
    **dict.fromkeys(PTQ_PREFIXES, "sweep.methods.ptq:Ptq"),
}


def register(prefix: str, method: type[Variant]) -> None:
    """Add a method whose variants are named PREFIX:SPEC."""
    _METHODS[prefix] = method


def method(name: str) -> type[Variant]:
    """The method of the variant with this name, as plans store it. A name without a known prefix is a GGUF quant."""
    load_extensions()
    known = _METHODS.get(prefix_of(name), _METHODS[""])
    variant: type[Variant] = import_object(known) if isinstance(known, str) else known
    return variant


def methods() -> list[type[Variant]]:
    """All methods."""
    load_extensions()
    return list(dict.fromkeys(method(f"{prefix}:" if prefix else "") for prefix in _METHODS))


def parse(text: str) -> Variant:
    """The variant of this name: a quant, `mix:FILE.toml`, `gguf:PATH`, `hub:REPO/FILE`, `int8:` or `fq:` and a recipe
    (see int8.recipe) or a recipe file, a variant of post-training quantization (see ptq.recipe), `torch:BF16`, or a
    variant of an extension. Raises InputError."""
    text = text.strip()
    prefix, colon, _ = split_projector(text)[0].partition(":")
    load_extensions()
    if colon and prefix_of(text) not in _METHODS:
        *known, last = [one.usage for one in methods()]
        raise InputError(
            f"{text}: no variant has the prefix '{prefix}:'; write a variant as {', '.join(known)} or {last}"
        )
    found = method(text)
    plain, cache = split_cache(text)
    if cache is not None and not found.takes_cache:
        raise InputError(f"{text}: only variants that llama.cpp runs have types of its KV cache; write {plain}")
    return found.parse(text)


def parse_list(texts: Sequence[str]) -> list[Variant]:
    """The variants of a list without repetitions. Two files with the same name are distinguished by their paths."""
    variants: list[Variant] = []
    for text in texts:
        variant = parse(text)
        if any(replace(known, name=variant.name) == variant for known in variants):
            continue
        if any(known.name == variant.name for known in variants):
            variant = replace(variant, name=variant.distinct_name(text.strip()))
        variants.append(variant)
    return variants


def with_baselines(variants: Sequence[Variant]) -> list[Variant]:
    """The variants in the order of a plan, with every baseline that they need.

    Variants that are compared with the sweep's reference come first. Each other baseline follows, even if it is not in
    `variants`, with the variants that are compared with it."""
    ordered = [variant for variant in variants if variant.baseline is None]
    for baseline in dict.fromkeys(variant.baseline for variant in variants if variant.baseline is not None):
        own = [variant for variant in variants if variant.baseline == baseline and variant.name != baseline]
        ordered += [parse(baseline), *own]
    return ordered


def with_files(variants: Sequence[Variant], say: Callable[[str], None], download: bool) -> list[Variant]:
    """The variants with their files found or downloaded: see Variant.with_file."""
    return [variant.with_file(say, download) for variant in variants]


def predicted_sizes(
    variants: Sequence[Variant], origin: Origin, settings: Settings, imatrix: bool, run_job: RunJob
) -> dict[str, PredictedSize]:
    """The sizes, by name, of those of `variants` whose size is known before they are measured. Raises InputError,
    MissingRuntime."""
    sizes: dict[str, PredictedSize] = {}
    for kind in dict.fromkeys(type(variant) for variant in variants):
        own = [variant for variant in variants if type(variant) is kind]
        sizes |= kind.predicted_sizes(own, origin, settings, imatrix, run_job)
    return sizes
