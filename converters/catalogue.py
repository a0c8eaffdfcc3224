"""Sizes of files before any work: of public models by name (presets/catalogue), and of whatever can be planned.

Tensor bytes are exact, by llama.cpp's own choice of types. So is the header where the tokenizer is known; where it is
not, its share is estimated from the vocabulary's size.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.config_source import ConfigSource
from converters.errors import InputError
from converters.imatrix import even_importance
from converters.llamacpp.container import text
from converters.plan import FilePlan, Importance, plan_export
from converters.recipes import recipes
from converters.source import Source
from presets import builtin_models
from presets.catalogue import CatalogueEntry, models

BYTES_PER_TOKEN = {151_936: 39.04, 248_320: 44.06}
"""Size of a vocabulary -> header bytes for each of its tokens: text, kind, about one merge, a share of the template.

From published files less their tensors: Qwen3-4B and Qwen3.5-0.8B, Q8_0. Qwen2's tokenizer.json alone gives 39.02.
"""


@dataclass(frozen=True)
class FileSize:
    """Bytes of one GGUF file, or of its `parts` together.

    `tensor_bytes` counts no padding; `mtp_bytes` is what of it is in MTP layers.

    A file without these layers is not always that much smaller, because llama.cpp chooses types by a layer's place
    among all: Qwen3.5-397B's Q4_K_M gains 0.57 GB elsewhere. A source made with `mtp=0` tells it exactly.
    `header_exact`: whether all of the header is known, the tokenizer above all; if not, `header_bytes` and `file_bytes`
    are estimates.
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
    """The public model of this name or hub id, in any case; None where the catalogue has none."""
    known = {key.lower(): entry for entry in models().values() for key in (entry.name, entry.hub_id)}
    return known.get(name.lower())


def public_model(name: str, tokenizer: Path | None = None, mtp: int | None = None) -> ConfigSource:
    """The model of the catalogue called `name` (in any case) or by its hub id, without weights.

    `tokenizer` is a directory with its tokenizer.json; `mtp` how many MTP layers to count, by default those that the
    checkpoint has. Raises InputError that lists what comes near.
    """
    entry = catalogue_entry(name)
    if entry is None:
        raise no_such_model(name)
    layers = entry.mtp_layers if mtp is None else mtp
    return ConfigSource(entry.config, Path(entry.hub_id) / "config.json", entry.name, tokenizer, mtp=layers)


def no_such_model(text: str) -> InputError:
    """The error for a MODEL that stands for nothing, with the names that come near."""
    names = {name.lower(): name for name in (*builtin_models(), *models())}
    near = difflib.get_close_matches(text.lower().rpartition("/")[2], names, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(names[name] for name in near)}? Otherwise " if near else ""
    return InputError(
        f"{text}: there is no such model; {hint}give a directory, a config.json, a .gguf file or a hub id"
    )


def estimated_vocabulary_bytes(tokens: int) -> int:
    """Header bytes of a vocabulary of which only the size is known, by the nearest one that was measured."""
    measured = min(BYTES_PER_TOKEN, key=lambda size: abs(size - tokens))
    return round(tokens * BYTES_PER_TOKEN[measured])


def sizes(
    source: Source, quants: Sequence[str], importance: Importance | None = None, max_part_bytes: int | None = None
) -> dict[str, FileSize]:
    """What each file would take. Reads no weights; keys are the quants' names in the order asked for.

    A quant that needs an importance matrix is taken to get one that covers all weights where none is given; what such
    a matrix adds to the header, some hundred bytes, is then left out. Raises InputError for what `plan_export` refuses.
    """
    result = {}
    for recipe in recipes(quants):
        given = even_importance(source) if recipe.needs_imatrix and importance is None else importance
        plan = plan_export(source, [recipe.name], given, max_part_bytes)[recipe.name]
        result[recipe.name] = size_of(source, plan, header_exact=given is importance)
    return result


def size_of(source: Source, plan: FilePlan, header_exact: bool = True) -> FileSize:
    """What a planned file takes; the share of a vocabulary that is not here is estimated."""
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
    """What a header will have more than can be planned, by estimate: 0 where the tokenizer is at hand."""
    if not isinstance(source, ConfigSource) or source.tokenizer is not None:
        return 0
    return estimated_vocabulary_bytes(_vocabulary(source))


def _vocabulary(source: Source) -> int:
    return source.structure[f"{text(source.structure, 'general.architecture')}.vocab_size"].value
