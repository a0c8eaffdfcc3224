"""The quants that can be asked for by name. What each does to a tensor is llama.cpp's decision (llamacpp/plan.py)."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from converters.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """A kind of GGUF file.

    `ftype` is its llama_ftype, `nominal_bits` the bits per weight of the type that most of its tensors get (the file
    itself has more: embeddings, output and some others get better types), `needs_imatrix` whether llama.cpp refuses to
    make it without an importance matrix.
    """

    name: str
    ftype: int
    nominal_bits: float
    needs_imatrix: bool = False


QUANTS = {
    recipe.name: recipe
    for recipe in (
        Recipe("F32", 0, 32.0),
        Recipe("F16", 1, 16.0),
        Recipe("BF16", 32, 16.0),
        Recipe("Q8_0", 7, 8.5),
        Recipe("Q6_K", 18, 6.5625),
        Recipe("Q5_K_M", 17, 5.5),
        Recipe("Q5_K_S", 16, 5.5),
        Recipe("Q5_0", 8, 5.5),
        Recipe("Q4_K_M", 15, 4.5),
        Recipe("Q4_K_S", 14, 4.5),
        Recipe("Q4_0", 2, 4.5),
        Recipe("IQ4_NL", 25, 4.5),
        Recipe("IQ4_XS", 30, 4.25),
        Recipe("Q3_K_L", 13, 3.4375),
        Recipe("Q3_K_M", 12, 3.4375),
        Recipe("Q3_K_S", 11, 3.4375),
        Recipe("Q2_K", 10, 2.625),
    )
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`, in any case. Raises InputError that lists what comes near."""
    found = QUANTS.get(name.upper())
    if found is None:
        near = difflib.get_close_matches(name.upper(), QUANTS, n=4, cutoff=0.5) or list(QUANTS)
        raise InputError(f"unknown quant {name!r}; did you mean {', '.join(near)}?")
    return found


def recipes(names: Iterable[str]) -> tuple[Recipe, ...]:
    """The recipes called `names`, each once, in the order given."""
    return tuple(dict.fromkeys(recipe(name) for name in names))
