"""A variant: one way of storing and running a model, as named on the command line and in presets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converters.errors import InputError
from converters.gguf_source import parts
from converters.hub import HubFile
from converters.recipes import recipe
from int8.recipe import Recipe
from int8.recipe import recipe as int8_recipe

TORCH_FLOAT = "torch:BF16"
"""The checkpoint as it is, through torch: what int8 variants are compared with."""
TORCH_KINDS = ("int8", "fq", "torch")


@dataclass(frozen=True)
class Variant:
    """`name` is what was asked for; `quant` is the recipe to export, or `file` a GGUF taken as it is.

    Of a file in parts it is the first. A `remote` file has no `file` until it is fetched. `kind` is "gguf", or one of
    TORCH_KINDS: "int8" computes in int8 what "fq" computes in float from the same checkpoint of the int8 `recipe`, and
    "torch" is the checkpoint as it is.
    """

    name: str
    kind: str = "gguf"
    quant: str | None = None
    file: Path | None = None
    remote: HubFile | None = None
    recipe: Recipe | None = None

    @property
    def is_torch(self) -> bool:
        return self.kind in TORCH_KINDS

    @property
    def kv_type(self) -> str:
        """Of the cache that torch keeps for it."""
        return "int8" if self.recipe is not None and self.recipe.int8_kv_cache else "bf16"

    @property
    def file_bytes(self) -> int:
        """Bytes of the file, all parts together, here or on the hub."""
        if self.file is not None:
            return sum(part.stat().st_size for part in parts(self.file))
        return self.remote.size() if self.remote is not None else 0


def parse(text: str) -> Variant:
    """`Q4_K_M` and the other quants of converters.recipes, `gguf:PATH`, `hub:REPO/FILE`, `int8:` or `fq:` and a recipe
    (see int8.recipe) or its file, or `torch:BF16`. Raises InputError."""
    text = text.strip()
    prefix, colon, rest = text.partition(":")
    if not colon:
        quant = recipe(text).name
        return Variant(name=quant, quant=quant)
    if prefix == "gguf":
        file = Path(rest).expanduser()
        if not file.is_file():
            raise InputError(f"{text}: there is no such file")
        first = parts(file.resolve())[0]
        return Variant(name=f"gguf:{first.name}", file=first)
    if prefix == "hub":
        remote = HubFile.parse(rest)
        return Variant(name=f"hub:{rest.rpartition('/')[2]}", remote=remote)
    if text == TORCH_FLOAT:
        return Variant(name=text, kind="torch")
    if prefix in ("int8", "fq"):
        found = int8_recipe(rest)
        return Variant(name=f"{prefix}:{found.name}", kind=prefix, recipe=found)
    if prefix == "torch":
        raise InputError(f"{text}: of variants that torch runs without a recipe there is {TORCH_FLOAT}")
    raise InputError(
        f"{text}: no variant has the prefix '{prefix}:'; known are quant names, gguf:PATH, hub:REPO/FILE, int8:RECIPE,"
        f" fq:RECIPE and {TORCH_FLOAT}"
    )


def kind_of(name: str) -> str:
    """The kind of the variant of this name."""
    prefix, colon, _ = name.partition(":")
    return prefix if colon and prefix in TORCH_KINDS else "gguf"


def parse_list(texts: list[str]) -> list[Variant]:
    """The variants of a list, each once; two files of the same name are told apart by where they are."""
    variants: list[Variant] = []
    for text in texts:
        variant = parse(text)
        if any(replace(known, name=variant.name) == variant for known in variants):
            continue
        if any(known.name == variant.name for known in variants):
            variant = replace(variant, name=text.strip() if variant.file is None else f"gguf:{variant.file}")
        variants.append(variant)
    return variants


def with_baseline(variants: Sequence[Variant]) -> list[Variant]:
    """Those of GGUF first, then those of torch: torch:BF16, asked for or not, before the int8 ones."""
    of_torch = [variant for variant in variants if variant.is_torch]
    baseline = [Variant(TORCH_FLOAT, kind="torch")] if of_torch else []
    others = [variant for variant in of_torch if variant.name != TORCH_FLOAT]
    return [*(variant for variant in variants if not variant.is_torch), *baseline, *others]


def fetched(variants: Sequence[Variant], say: Callable[[str], None], download: bool) -> list[Variant]:
    """The variants with files of the hub found in the cache or, with `download`, fetched there. Raises InputError."""
    found = []
    for variant in variants:
        if variant.remote is not None:
            file = variant.remote.cached()
            if file is None and download:
                say(f"fetching {variant.name} of {variant.remote.repository} from the hub")
                file = variant.remote.fetch()
            variant = replace(variant, file=file)
        found.append(variant)
    return found
