"""Sizes of GGUF files before any work: for public models by name (presets/catalogue), and for any model to be exported.

Tensor bytes are exact, because llama.cpp itself chooses the types. The header is exact if the tokenizer is known;
otherwise the vocabulary's share is estimated from its size.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.config_source import ConfigSource
from converters.errors import InputError
from converters.imatrix import uniform_importance
from converters.llamacpp.container import text
from converters.plan import FilePlan, Importance, plan_export
from converters.recipes import recipes
from converters.source import Source
from presets import builtin_models
from presets.catalogue import CatalogueEntry, models

_ADDRESS = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+)(?:/(?:blob|resolve)/[^/]+/(.+\.gguf))?")
"""Of a model on a hub, or of a file of it, as a browser shows it."""

HEADER_BYTES_PER_TOKEN = {151_936: 39.04, 248_320: 44.06}
"""Vocabulary size -> header bytes per token (text, token type, about one merge, a share of the chat template).

Measured on published files as file size minus tensors: Q8_0 of Qwen3-4B and of Qwen3.5-0.8B. Qwen2's tokenizer.json
gives 39.02.
"""


@dataclass(frozen=True)
class FileSize:
    """Bytes of one GGUF file, or of all its `parts` together.

    `tensor_bytes` excludes padding; `mtp_bytes` is the part of it that belongs to multi-token prediction layers.
    Exporting without these layers does not always save that much, because llama.cpp chooses types by a layer's position
    among all layers: in Q4_K_M of Qwen3.5-397B other tensors grow by 0.57 GB. A source made with `mtp=0` gives the
    exact size. `header_exact` says whether the whole header is known, above all the tokenizer; if not, `header_bytes`
    and `file_bytes` are estimates.
    """

    quant: str
    tensor_bytes: int
    mtp_bytes: int
    header_bytes: int
    header_exact: bool
    file_bytes: int
    parts: int
    bits_per_weight: float
    census: Mapping[str, int]  # tensors by type


def catalogue_entry(name: str) -> CatalogueEntry | None:
    """The public model with this name or hub id (in any case), or None if the catalogue does not have it."""
    known = {key.lower(): entry for entry in models().values() for key in (entry.name, entry.hub_id)}
    return known.get(name.lower())


def public_model(name: str, tokenizer: Path | None = None, mtp: int | None = None) -> ConfigSource:
    """A model of the catalogue without its weights, by its name or hub id (in any case).

    `tokenizer` is a directory with its tokenizer.json. `mtp` is the number of multi-token prediction layers to count,
    by default those of the published checkpoint. Raises InputError with similar names for an unknown model.
    """
    entry = catalogue_entry(name)
    if entry is None:
        raise no_such_model(name)
    layers = entry.mtp_layers if mtp is None else mtp
    return ConfigSource(entry.config, Path(entry.hub_id) / "config.json", entry.name, tokenizer, mtp=layers)


def smaller_relatives(name: str) -> list[str]:
    """The models of the catalogue with fewer parameters than this one and of the same series, the largest first.

    The series of a name is what is before its size: Qwen3 and Qwen3-VL are different series. Qwen3.5 and later are one,
    because each release has only some sizes. Empty for a model that is not in the catalogue.
    """
    entry = catalogue_entry(name)
    if entry is None:
        return []
    sizes = {one.name: _parameters(one.name) for one in models().values() if _series(one.name) == _series(entry.name)}
    smaller = [one for one in sizes if sizes[one] < 0.9 * sizes[entry.name]]
    return sorted(smaller, key=lambda one: -sizes[one])


def are_relatives(first: str, second: str) -> bool:
    """Whether the names are of two models of the same series, in the catalogue or not."""
    return first != second and "-" in first and _series(first) == _series(second)


def _series(name: str) -> str:
    series = re.split(r"-\d", name, maxsplit=1)[0]
    return re.sub(r"^Qwen3\.\d", "Qwen3.5", series)


def _parameters(name: str) -> int:
    return sum(tensor.elements for tensor in public_model(name).tensors)


def no_such_model(text: str) -> InputError:
    """The error for a MODEL that was not found in any form, with similar names, or the hub id in its address."""
    address = _ADDRESS.match(text)
    if address is not None:
        file = f"/{address[2]}" if address[2] else ""
        prefix = "hub:" if file else ""
        return InputError(f"{text}: is an address; give the hub id in it: {prefix}{address[1]}{file}")
    names = {name.lower(): name for name in (*builtin_models(), *models())}
    near = difflib.get_close_matches(text.lower().rpartition("/")[2], names, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(names[name] for name in near)}? Otherwise " if near else ""
    return InputError(
        f"{text}: there is no such model; {hint}give a directory, a config.json, a .gguf file or a hub id"
    )


def estimated_vocabulary_bytes(tokens: int) -> int:
    """Estimated header bytes of a vocabulary of `tokens` tokens, by the measured vocabulary of the nearest size."""
    measured = min(HEADER_BYTES_PER_TOKEN, key=lambda size: abs(size - tokens))
    return round(tokens * HEADER_BYTES_PER_TOKEN[measured])


def sizes(
    source: Source, quants: Sequence[str], importance: Importance | None = None, max_part_bytes: int | None = None
) -> dict[str, FileSize]:
    """The size of each quant's file: quant -> size, in the given order. Reads no weights.

    If a quant needs an importance matrix and none is given, a matrix that covers all weights is assumed; the few
    hundred bytes that it adds to the header are then left out. Raises InputError for what `plan_export` rejects.
    """
    result = {}
    for recipe in recipes(quants):
        given = uniform_importance(source) if recipe.needs_imatrix and importance is None else importance
        plan = plan_export(source, [recipe.name], given, max_part_bytes)[recipe.name]
        result[recipe.name] = size_of(source, plan, header_exact=given is importance)
    return result


def size_of(source: Source, plan: FilePlan, header_exact: bool = True) -> FileSize:
    """The size of a planned file; the share of an unknown vocabulary is estimated."""
    vocabulary = missing_vocabulary_bytes(source)
    known = not vocabulary
    return FileSize(
        quant=plan.quant,
        tensor_bytes=plan.tensor_bytes,
        mtp_bytes=plan.mtp_bytes,
        header_bytes=sum(len(part.header) for part in plan.parts) + vocabulary,
        header_exact=known and header_exact,
        file_bytes=plan.file_bytes + vocabulary,
        parts=len(plan.parts),
        bits_per_weight=plan.bits_per_weight,
        census={name: count.tensors for name, count in plan.census.items()},
    )


def missing_vocabulary_bytes(source: Source) -> int:
    """Estimated header bytes of the vocabulary if the tokenizer is not known; 0 if it is."""
    if not isinstance(source, ConfigSource) or source.tokenizer is not None:
        return 0
    return estimated_vocabulary_bytes(_vocabulary(source))


def _vocabulary(source: Source) -> int:
    return source.structure[f"{text(source.structure, 'general.architecture')}.vocab_size"].value
