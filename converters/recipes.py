"""The quants that users can name: llama.cpp's own, and this project's XL mixes (mixes.toml).

llama.cpp decides the types of a quant's tensors (llamacpp/tensor_types.py); a mix overrides some of them.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from converters.errors import InputError


@dataclass(frozen=True)
class Rule:
    """The type of some tensors, and the reason (a key of the table of reasons in mixes.toml).

    - `tensors`: names without "blk.N." and ".weight".
    - `edges`: only in the first and last eighth of the layers.
    - `models`: only in models with experts ("experts") or without ("dense"), or in "all".
    - `tied`: the type to use instead if the output matrix is the embedding.
    """

    tensors: tuple[str, ...]
    type: str
    edges: bool
    models: str
    tied: str | None
    why: str | None

    def pattern(self, layers: int) -> str:
        """The rule in llama.cpp's form: a regular expression that is searched for in tensor names."""
        names = "|".join(self.tensors)
        edge = max(1, layers // 8)
        if not self.edges:
            return rf"^(blk\.[0-9]+\.)?({names})\.weight$"
        chosen = sorted({*range(edge), *range(layers - edge, layers)})
        return rf"^blk\.({'|'.join(map(str, chosen))})\.({names})\.weight$"


@dataclass(frozen=True)
class Mix:
    """Rules on top of a plain quant; the first rule that matches a tensor decides."""

    version: int
    rules: tuple[Rule, ...]

    def overrides(self, layers: int, tied: bool, experts: bool) -> tuple[tuple[str, str], ...]:
        """(regular expression, name of the type) per rule in order, for a model with `layers` layers."""
        kind = "experts" if experts else "dense"
        return tuple(
            (rule.pattern(layers), (tied and rule.tied) or rule.type)
            for rule in self.rules
            if rule.models in ("all", kind)
        )


@dataclass(frozen=True)
class QuantRecipe:
    """A kind of GGUF file.

    `ftype` is its llama_ftype (for a mix, that of its base). `nominal_bits` is the bits per weight of the type that
    most tensors get; the file itself has more, because embeddings, output and some other tensors get better types.
    `needs_imatrix` says whether llama.cpp makes the quant only with an importance matrix.
    """

    name: str
    ftype: int
    nominal_bits: float
    needs_imatrix: bool = False
    mix: Mix | None = None

    @property
    def is_float(self) -> bool:
        """Whether all weights stay floating-point numbers, so that an importance matrix changes nothing."""
        return self.nominal_bits >= 16

    @property
    def label(self) -> str:
        """The name, for a mix followed by its version, which distinguishes releases of the mix."""
        return self.name if self.mix is None else f"{self.name}.v{self.mix.version}"


PLAIN = {
    recipe.name: recipe
    for recipe in (
        QuantRecipe("F32", 0, 32.0),
        QuantRecipe("F16", 1, 16.0),
        QuantRecipe("BF16", 32, 16.0),
        QuantRecipe("Q8_0", 7, 8.5),
        QuantRecipe("Q6_K", 18, 6.5625),
        QuantRecipe("Q5_1", 9, 6.0),
        QuantRecipe("Q5_K_M", 17, 5.5),
        QuantRecipe("Q5_K_S", 16, 5.5),
        QuantRecipe("Q5_0", 8, 5.5),
        QuantRecipe("Q4_1", 3, 5.0),
        QuantRecipe("Q4_K_M", 15, 4.5),
        QuantRecipe("Q4_K_S", 14, 4.5),
        QuantRecipe("Q4_0", 2, 4.5),
        QuantRecipe("IQ4_NL", 25, 4.5),
        QuantRecipe("IQ4_XS", 30, 4.25),
        QuantRecipe("MXFP4_MOE", 38, 4.25),
        QuantRecipe("IQ3_M", 27, 3.4375),
        QuantRecipe("IQ3_S", 26, 3.4375),
        QuantRecipe("Q3_K_L", 13, 3.4375),
        QuantRecipe("Q3_K_M", 12, 3.4375),
        QuantRecipe("Q3_K_S", 11, 3.4375),
        QuantRecipe("IQ3_XS", 22, 3.4375, needs_imatrix=True),
        QuantRecipe("IQ3_XXS", 23, 3.0625, needs_imatrix=True),
        QuantRecipe("Q2_K", 10, 2.625),
        QuantRecipe("Q2_K_S", 21, 2.625, needs_imatrix=True),
        QuantRecipe("IQ2_M", 29, 2.5625, needs_imatrix=True),
        QuantRecipe("IQ2_S", 28, 2.3125, needs_imatrix=True),
        QuantRecipe("IQ2_XS", 20, 2.3125, needs_imatrix=True),
        QuantRecipe("IQ2_XXS", 19, 2.0625, needs_imatrix=True),
        QuantRecipe("TQ2_0", 37, 2.0625),
        QuantRecipe("IQ1_M", 31, 1.75, needs_imatrix=True),
        QuantRecipe("TQ1_0", 36, 1.6875),
        QuantRecipe("IQ1_S", 24, 1.5625, needs_imatrix=True),
    )
}
"""llama.cpp's own quants. The bits are those of the main type's blocks."""


def _read_mixes() -> dict[str, QuantRecipe]:
    table: dict[str, Any] = tomllib.loads(files("converters").joinpath("mixes.toml").read_text())
    version, reasons = table.pop("version"), table.pop("why")

    def rule(entry: Mapping[str, Any]) -> Rule:
        unknown = set(entry) - {"tensors", "type", "layers", "models", "tied", "why"}
        why, where, models = entry.get("why"), entry.get("layers", "all"), entry.get("models", "all")
        known = where in ("all", "edges") and models in ("all", "dense", "experts") and (why is None or why in reasons)
        if unknown or not known:
            raise ValueError(f"mixes.toml: {entry} is not a valid rule")
        return Rule(tuple(entry["tensors"]), entry["type"], where == "edges", models, entry.get("tied"), why)

    return {
        name: QuantRecipe(
            name,
            PLAIN[entry["base"]].ftype,
            PLAIN[entry["base"]].nominal_bits,
            mix=Mix(version, tuple(rule(one) for one in entry["rules"])),
        )
        for name, entry in table.items()
    }


QUANTS: Mapping[str, QuantRecipe] = dict(
    sorted({**PLAIN, **_read_mixes()}.items(), key=lambda item: (-item[1].nominal_bits, item[1].mix is None))
)
"""All quants by name, largest first."""


@cache
def reasons() -> dict[str, str]:
    """Why the rules of mixes are as they are: key -> sentence."""
    return dict(tomllib.loads(files("converters").joinpath("mixes.toml").read_text())["why"])


def recipe(name: str) -> QuantRecipe:
    """The recipe called `name` (in any case). Raises InputError with similar names."""
    found = QUANTS.get(name.upper())
    if found is None:
        near = difflib.get_close_matches(name.upper(), QUANTS, n=4, cutoff=0.5) or list(QUANTS)
        raise InputError(f"unknown quant {name!r}; did you mean {', '.join(near)}?")
    return found


def recipes(names: Iterable[str]) -> tuple[QuantRecipe, ...]:
    """The recipes called `names`, without repetitions, in the given order. Raises InputError for an unknown name."""
    return tuple(dict.fromkeys(recipe(name) for name in names))


PROJECTOR_QUANTS = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_1", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_1", "Q4_K_M", "Q4_K_S", "Q4_0"),
    *("IQ3_M", "Q3_K_L", "Q3_K_M", "Q3_K_S", "TQ2_0", "TQ1_0"),
)
"""The quants of projector files. llama.cpp's quantizer ends its process on all others but MXFP4_MOE, which is for
experts; they also have rules for layers of a text model."""


def projector_recipes(names: Sequence[str]) -> tuple[QuantRecipe, ...]:
    """The recipes called `names`, for projector files. Raises InputError for one that these files cannot have."""
    for name in names:
        if name.upper() not in PROJECTOR_QUANTS:
            raise InputError(f"{name!r} is not a type of projector files; give one of {', '.join(PROJECTOR_QUANTS)}")
    return recipes(names)


def reject_missing_imatrix(chosen: Iterable[QuantRecipe]) -> None:
    """Raise InputError for the first recipe that llama.cpp makes only with an importance matrix."""
    for one in chosen:
        if one.needs_imatrix:
            raise InputError(
                f"{one.name} needs an importance matrix; give one by --imatrix FILE, or compute one by --imatrix auto"
            )
