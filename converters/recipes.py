"""The quants that users can name: llama.cpp's own, this project's XL mixes, and the users' own (mixes.py).

llama.cpp decides the types of a quant's tensors (llamacpp/tensor_types.py); a mix overrides some of them.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converters.errors import InputError
from converters.mixes import IMATRIX_TYPES, MIX_PREFIX, OWN_TYPE, Mix, mix_of, read_mix, xl_mixes


@dataclass(frozen=True)
class QuantRecipe:
    """A kind of GGUF file.

    `ftype` is its llama_ftype (for a mix, that of its base). `nominal_bits` is the bits per weight of the type that
    most tensors get; the file itself has more, because embeddings, output and some other tensors get better types.
    `needs_imatrix` says whether llama.cpp makes the quant only with an importance matrix. `title` is what files are
    called by.
    """

    name: str
    ftype: int
    nominal_bits: float
    needs_imatrix: bool = False
    mix: Mix | None = None
    title: str = ""

    @property
    def is_float(self) -> bool:
        """Whether all weights stay floating-point numbers, so that an importance matrix changes nothing."""
        return self.nominal_bits >= 16

    @property
    def label(self) -> str:
        """The title, for a mix followed by its release, which distinguishes versions of the mix."""
        return self.title if self.mix is None else f"{self.title}.{self.mix.release}"

    @property
    def distinct_title(self) -> str:
        """A part of file names that tells mixes of users with the same title apart."""
        return self.title if self.mix is None or self.mix.where is None else self.label


PLAIN = {
    recipe.name: replace(recipe, title=recipe.name)
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


def _of_mix(name: str, base: str, mix: Mix, title: str | None = None) -> QuantRecipe:
    """The recipe of a mix. It needs an importance matrix if its base or one of its types does."""
    plain = PLAIN[base]
    needs = plain.needs_imatrix or any(rule.type in IMATRIX_TYPES for rule in mix.rules)
    return QuantRecipe(name, plain.ftype, plain.nominal_bits, needs, mix, title or name)


_XL = {name: _of_mix(name, base, mix) for name, (base, mix) in xl_mixes().items()}
QUANTS: Mapping[str, QuantRecipe] = dict(
    sorted({**PLAIN, **_XL}.items(), key=lambda item: (-item[1].nominal_bits, item[1].mix is None))
)
"""All quants by name, largest first."""


def recipe(name: str) -> QuantRecipe:
    """The recipe called `name`: a quant (in any case), the file of a mix as `mix:FILE.toml`, or a quant with types of
    one's own as `Q4_K_M;attn_v=Q8_0`. Raises InputError with similar names."""
    if name.startswith(MIX_PREFIX):
        file = Path(name.removeprefix(MIX_PREFIX)).expanduser().absolute()
        base, mix = read_mix(file)
        if file.stem.upper() in QUANTS:
            raise InputError(f"{file}: {file.stem} is the name of a quant; give the file another name")
        return _of_mix(f"{MIX_PREFIX}{file}", _plain(base, f"{file}: base").name, mix, file.stem)
    base, *own = name.split(OWN_TYPE)
    if own:
        plain = _plain(base.strip(), name)
        mix = mix_of(own)
        return _of_mix(OWN_TYPE.join((plain.name, *own)), plain.name, mix, f"{plain.name}-custom-{mix.release}")
    found = QUANTS.get(name.upper())
    if found is None:
        near = difflib.get_close_matches(name.upper(), QUANTS, n=4, cutoff=0.5) or list(QUANTS)
        raise InputError(f"unknown quant {name!r}; did you mean {', '.join(near)}?")
    return found


def with_own_types(name: str, rules: Sequence[str]) -> str:
    """The quant `name` with rules REGEX=TYPE on top of it, as `recipe` reads it. Raises InputError for a mix."""
    if not rules:
        return name
    for rule in rules:
        if OWN_TYPE in rule:
            raise InputError(
                f"--tensor-type {rule}: no tensor's name has a {OWN_TYPE!r}; give the option once for each rule"
            )
    if recipe(name).mix is not None:
        raise InputError(
            f"{name}: --tensor-type changes only llama.cpp's own quants; write the rules into a mix of your own"
        )
    return OWN_TYPE.join((name, *rules))


def _plain(name: str, where: str) -> QuantRecipe:
    found = PLAIN.get(name.upper())
    if found is None:
        raise InputError(f"{where}: {name!r} is not one of llama.cpp's own quants, such as Q4_K_M")
    return found


def title_of(label: str) -> str:
    """The title of the recipe with this label, whose file may be gone."""
    title, dot, _ = label.rpartition(".")
    return title if dot else label


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
