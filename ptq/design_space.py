"""What a design space of post-training quantization varies: the settings of a recipe, its calibration text, and the
number of samples. The format of files is that of int8.design_space. This module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from converters.errors import InputError
from int8.design_space import Family
from int8.recipe import ALL_FOLDS
from ptq.recipe import BILLM, METHODS, Order, PtqRecipe, Rounding, from_table, name_of


@dataclass(frozen=True)
class PtqSetup:
    """A recipe and how it is calibrated: the name of the `calibration` text, and the number of `samples` of it.

    None: no text is read, or the method's own number."""

    recipe: PtqRecipe
    calibration: str | None = None
    samples: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**self.recipe.to_json(), "calibration": self.calibration, "samples": self.samples}


@dataclass(frozen=True)
class Holder:
    """Who has a setting: a condition, and the same in words, as a clause that says why another has it not."""

    has: Callable[[PtqRecipe], bool]
    otherwise: str


_GRID = Holder(lambda recipe: recipe.rounding is not Rounding.BILLM, "billm has signs, not a grid")
_INTEGERS = Holder(lambda recipe: recipe.rounding in (Rounding.RTN, Rounding.GPTQ), "only rtn and gptq have it")
_GPTQ = Holder(lambda recipe: recipe.rounding is Rounding.GPTQ, "only gptq has it")
_HESSIAN = Holder(
    lambda recipe: recipe.rounding in (Rounding.GPTQ, Rounding.BILLM), "only gptq and billm use the Hessian like that"
)
_AWQ = Holder(lambda recipe: recipe.awq, "only awq has it")
_TEXT = Holder(lambda recipe: recipe.needs_text, "the method reads no calibration text")

HOLDERS: Mapping[str, Holder] = {
    "bits": _GRID,
    "group": _GRID,
    "activation_bits": _GRID,
    "symmetric": _INTEGERS,
    "search": _INTEGERS,
    "alpha": Holder(lambda recipe: recipe.smooth, "only sq has it"),
    "awq_loss": _AWQ,
    "clip": _AWQ,
    "folds": Holder(lambda recipe: recipe.smooth or recipe.awq, "only sq and awq move scales between channels"),
    "damp": _HESSIAN,
    "block": _HESSIAN,
    "order": _GPTQ,
    "asymmetric_calibration": _GPTQ,
    "masks": Holder(lambda recipe: recipe.rounding is Rounding.BILLM, "only billm has it"),
    "inputs": _TEXT,
    "calibration": _TEXT,
    "samples": _TEXT,
}
"""Setting -> who has it. What is not here, every method has."""
_CALIBRATION: Mapping[str, type] = {"calibration": str, "samples": int}


def canonical_setup(setup: PtqSetup) -> PtqSetup:
    """The setup with defaults for everything that the quantized model does not depend on."""
    recipe, plain = setup.recipe, PtqRecipe("")
    unused = [key for key, holder in HOLDERS.items() if not holder.has(recipe)]
    folds = tuple(fold for fold in ALL_FOLDS if fold in recipe.folds)
    changes = {"folds": folds} | {key: getattr(plain, key) for key in unused if key not in (*_CALIBRATION, "bits")}
    if recipe.rounding is Rounding.GPTQ and not recipe.group and recipe.order is Order.DYNAMIC:
        changes["order"] = Order.STATIC  # a whole row has the scales of its original weights in both
    recipe = replace(recipe, **changes)
    recipe = replace(recipe, name=name_of(recipe))
    read = recipe.needs_text
    return PtqSetup(recipe, setup.calibration if read else None, setup.samples if read else None)


def _setup(table: Mapping[str, Any], where: str) -> PtqSetup:
    for key, kind in _CALIBRATION.items():
        if key in table and (type(table[key]) is not kind or not table[key]):
            raise InputError(f"{where}: '{key}' is {table[key]!r}; write {'a name' if kind is str else 'a number'}")
    if table.get("samples", 1) < 1:
        raise InputError(f"{where}: 'samples' is {table['samples']}; it must be at least 1")
    recipe = from_table({key: value for key, value in table.items() if key not in _CALIBRATION}, where)
    return canonical_setup(PtqSetup(recipe, table.get("calibration"), table.get("samples")))


def _lacks(setup: PtqSetup, key: str) -> str | None:
    holder = HOLDERS.get(key)
    return None if holder is None or holder.has(setup.recipe) else holder.otherwise


PTQ = Family(
    name="ptq",
    subject="settings of post-training quantization",
    bases="variants of post-training quantization, such as gptq:w4g128",
    knows=lambda base: base in BILLM or base.partition(":")[0].partition("+")[0] in (*METHODS, "ptq"),
    setup=_setup,
    lacks=_lacks,
)
