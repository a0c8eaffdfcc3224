"""Recipes of post-training quantization: what a variant's name says, and the settings of its methods.

A variant's name is METHODS:SPEC, for example `gptq:w4g128`, `awq+gptq:w3g128`, `sq:w8a8`, `billm`. METHODS are the
steps in the order in which they are applied: those that change the model without changing its function (`sq`, `awq`,
`rot`), then the one that rounds the weights (`rtn`, `gptq`, `hqq`, `billm`; by default `rtn`). `+a` after `gptq` is
GPTAQ. SPEC has the bits of the weights, of the activations, and the columns per scale: w4, w4g128, w4a8g128; with
`-sym` the grid is symmetric, with `-asym` it is not. `+vision` at the end: the vision tower is quantized too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from converters.errors import InputError
from int8.recipe import ALL_FOLDS, KEPT, VISION, Fold, matches, without_tower
from int8.recipe_table import read_toml, read_values

FEWEST_BITS, MOST_BITS = 2, 8
SMALLEST_GROUP = 16
ACTIVATION_BITS = (4, 8, 16)


class Rounding(StrEnum):
    """How weights are rounded."""

    RTN = "rtn"  # each weight to the nearest value
    GPTQ = "gptq"  # column by column; later columns make up for the error (arXiv 2210.17323)
    HQQ = "hqq"  # to a grid whose zero points minimize a robust error of the weights (Badri and Shaji 2023)
    BILLM = "billm"  # to signs, with a second sign for important columns (arXiv 2402.04291)


class Order(StrEnum):
    """The order in which GPTQ rounds columns, and what groups of columns share a scale."""

    STATIC = "static"  # by importance; groups are neighbouring columns, with scales of the original weights
    DYNAMIC = "dynamic"  # by importance; groups are columns that follow each other in this order
    NONE = "none"  # as they are, with scales when their group begins


class Inputs(StrEnum):
    """The inputs with which a layer is calibrated."""

    LAYER = "layer"  # of a model whose earlier layers are quantized
    INSIDE = "inside"  # the same; in a layer, o_proj also reads quantized Q, K and V, and so on
    FLOAT = "float"  # of the unquantized model


class AwqLoss(StrEnum):
    """What AWQ's scales minimize."""

    HESSIAN = "hessian"  # the squared error of the outputs of the linear layers: tr(dW H dW^T)
    OUTPUT = "output"  # as published: the error of the output of attention or MLP


class Masks(StrEnum):
    """Where BiLLM looks for the columns and the split of the others."""

    SALIENCY = "saliency"  # as published
    WEIGHTS = "weights"


@dataclass(frozen=True)
class Grid:
    """A grid for weights: `bits` per weight, `group` columns per scale (0: a whole row).

    `search`: choose ranges by the error of the weights, instead of from the lowest to the highest.
    """

    bits: int
    group: int = 0
    symmetric: bool = False
    search: bool = False

    def groups(self, columns: int) -> int:
        """The number of scales of a row."""
        return columns // self.group if self.group else 1


@dataclass(frozen=True)
class PtqRecipe:
    """A recipe. `name` is the variant's name.

    - `rounding`, `bits`, `group`, `symmetric`, `search`: how weights are rounded, and to which grid (see `Grid`).
    - `activation_bits`: of the inputs of linear layers, rounded per token (symmetric) while the model runs; 16: float.
    - `smooth`: SmoothQuant's scales with `alpha`, by `folds`. `awq`: AWQ's scales, by `folds`, which minimize
      `awq_loss`, then `clip`: smaller ranges by the error of the outputs. `rotate`: Hadamard rotations.
    - `damp`: the share of the mean of H's diagonal that is added to it. `block`: GPTQ's and BiLLM's columns per block.
      `order`, `inputs`: see their types. `asymmetric_calibration`: GPTAQ (arXiv 2504.02692).
    - `masks`: BiLLM's.
    - `embedding_bits`: 16, or 8: embeddings and head rounded to groups of 32 (8.5 bits per weight).
    - `keep`: patterns of the paths of linear layers that stay float.
    - `vision`: the linear layers of the vision tower and the mergers are quantized too. Patterns of `keep` for the
      whole tower are ignored then.
    """

    name: str
    rounding: Rounding = Rounding.RTN
    bits: int = 4
    group: int = 0
    symmetric: bool = False
    search: bool = False
    activation_bits: int = 16
    smooth: bool = False
    alpha: float = 0.5
    awq: bool = False
    awq_loss: AwqLoss = AwqLoss.HESSIAN
    clip: bool = True
    rotate: bool = False
    folds: tuple[Fold, ...] = ALL_FOLDS
    damp: float = 0.01
    block: int = 128
    order: Order = Order.STATIC
    inputs: Inputs = Inputs.LAYER
    asymmetric_calibration: bool = False
    masks: Masks = Masks.SALIENCY
    embedding_bits: int = 16
    keep: tuple[str, ...] = KEPT
    vision: bool = False

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.group, self.symmetric, self.search)

    @property
    def needs_text(self) -> bool:
        """Whether the recipe depends on activations, so that it needs a calibration text."""
        return self.smooth or self.awq or self.rounding in (Rounding.GPTQ, Rounding.BILLM)

    @property
    def packed(self) -> bool:
        """Whether compressed-tensors has a format for the result, which other programs read."""
        integers = self.rounding in (Rounding.RTN, Rounding.GPTQ)
        return integers and not self.rotate and self.embedding_bits == 16

    @property
    def unties_head(self) -> bool:
        """Whether the head gets weights of its own: a rotation of the residual stream merges the final norm into it."""
        return self.rotate and not (self.smooth or self.awq)

    def keeps(self, module: str) -> bool:
        """Whether the linear layer with this path in the model stays float."""
        return matches(module, without_tower(self.keep) if self.vision else self.keep)

    def to_json(self) -> dict[str, Any]:
        """The recipe as a JSON object, including its name; `from_json` reads it. Without `vision` if that is false, so
        that keys of stored results stay."""
        stated = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return stated if self.vision else {key: value for key, value in stated.items() if key != "vision"}


ENDS = PtqRecipe("embeddings and head", bits=8, group=32, symmetric=True)
"""How embeddings and head are rounded with `embedding_bits` 8: 8.5 bits per weight."""

METHODS: Mapping[str, Mapping[str, Any]] = {
    "sq": {"smooth": True, "symmetric": True},
    "awq": {"awq": True},
    "rot": {"rotate": True},
    "rtn": {"rounding": Rounding.RTN},
    "gptq": {"rounding": Rounding.GPTQ},
    "a": {"asymmetric_calibration": True},
    "hqq": {"rounding": Rounding.HQQ},
}
"""Step in a name before the colon -> the settings that it stands for, in the order in which steps are applied."""

BILLM: Mapping[str, Mapping[str, Any]] = {
    "billm": {"rounding": Rounding.BILLM, "bits": 1},
    "billm+": {"rounding": Rounding.BILLM, "bits": 1, "masks": Masks.WEIGHTS},
}
"""The names without bits, which are always binary."""

PREFIXES = (*(step for step in METHODS if step != "a"), "billm", "ptq")
"""What the name of a variant can begin with: its first step, or `ptq:` before a recipe file."""

_SPEC = re.compile(r"w(?P<bits>\d+)(?:a(?P<activations>\d+))?(?:g(?P<group>\d+))?(?:-(?P<kind>sym|asym))?")
_USAGE = "write, for example, gptq:w4g128, awq+gptq:w3g128, sq:w8a8 or rtn:w4-sym"
_ELEMENTS: Mapping[str, type] = {"folds": Fold, "keep": str}


def recipe(name: str) -> PtqRecipe:
    """The recipe of a variant's name, `ptq:FILE` included. Raises InputError that says what is wrong with the name."""
    if name.endswith(VISION):
        given = recipe(name.removesuffix(VISION))
        given = replace(given, name=f"{given.name}{VISION}", vision=True)
        _check(given, name)
        return given
    if name in BILLM:
        return PtqRecipe(name, **BILLM[name])
    prefix, _, spec = name.partition(":")
    if prefix == "ptq":
        return _from_file(Path(spec).expanduser())
    values = _steps(prefix.split("+"), name)
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise InputError(f"{name}: {spec!r} does not state the bits; {_USAGE}")
    values["bits"] = int(found["bits"])
    values["activation_bits"] = int(found["activations"] or 16)
    values["group"] = int(found["group"] or 0)
    if found["kind"]:
        values["symmetric"] = found["kind"] == "sym"
    given = PtqRecipe(name, **values)
    _check(given, name)
    return replace(given, name=name_of(given))


def _steps(steps: list[str], name: str) -> dict[str, Any]:
    known = list(METHODS)
    for step in steps:
        if step not in known:
            near = difflib.get_close_matches(step, known, n=1)
            raise InputError(f"{name}: there is no method {step!r}; {_nearest(near, known)}")
    places = [known.index(step) for step in steps]
    if places != sorted(set(places)):
        ordered = "+".join(known[place] for place in sorted(set(places)))
        raise InputError(f"{name}: methods are written once, in the order in which they are applied: {ordered}")
    if "a" in steps and "gptq" not in steps:
        raise InputError(f"{name}: +a is GPTQ's asymmetric calibration (GPTAQ); write gptq+a:w4g128")
    if sum(step in ("rtn", "gptq", "hqq") for step in steps) > 1:
        raise InputError(f"{name}: weights are rounded once: by rtn, gptq or hqq")
    return {key: value for step in steps for key, value in METHODS[step].items()}


def _nearest(near: list[str], known: list[str]) -> str:
    return f"did you mean {near[0]}?" if near else f"known are {', '.join([*known, *BILLM])}"


def name_of(given: PtqRecipe) -> str:
    """The name of a recipe: its steps and its bits. Other settings are not part of it."""
    if given.rounding is Rounding.BILLM:
        return next(name for name, values in BILLM.items() if values.get("masks", Masks.SALIENCY) is given.masks)
    folds = [step for step, set_ in (("sq", given.smooth), ("awq", given.awq), ("rot", given.rotate)) if set_]
    steps = folds if folds and given.rounding is Rounding.RTN and folds != ["rot"] else [*folds, str(given.rounding)]
    steps += ["a"] if given.asymmetric_calibration else []
    activations = f"a{given.activation_bits}" if given.activation_bits < 16 else ""
    group = f"g{given.group}" if given.group else ""
    usual = _steps(steps, given.name).get("symmetric", False)
    kind = "" if given.symmetric == usual else "-sym" if given.symmetric else "-asym"
    return f"{'+'.join(steps)}:w{given.bits}{activations}{group}{kind}"


def _from_file(file: Path) -> PtqRecipe:
    if not file.is_file():
        raise InputError(f"ptq:{file}: there is no such recipe file; {_USAGE}")
    return from_table(read_toml(file), str(file), file.stem)


def from_table(table: Mapping[str, Any], where: str, stem: str | None = None) -> PtqRecipe:
    """A recipe from the keys of a TOML or JSON object. `base` is the name of a recipe that the other keys change.

    `base` may be without bits, such as "gptq". The recipe's name states its steps and bits, and then `stem`. Raises
    InputError that names `where` and the key.
    """
    base = table.get("base", "rtn")
    if not isinstance(base, str):
        raise InputError(f"{where}: 'base' is {base!r}; give the name of a method or variant, such as \"gptq\"")
    begin = recipe(base if ":" in base or base in BILLM else f"{base}:w4")
    values = read_values(PtqRecipe, {key: value for key, value in table.items() if key != "base"}, where, _ELEMENTS)
    given = replace(begin, **values)
    _check(given, where)
    name = name_of(given)
    return replace(given, name=name if stem is None else f"{name}@{stem}")


def from_json(stated: Mapping[str, Any], where: str) -> PtqRecipe:
    """The recipe from the result of `PtqRecipe.to_json`. Raises InputError that names `where` and the key."""
    values = read_values(PtqRecipe, {key: value for key, value in stated.items() if key != "name"}, where, _ELEMENTS)
    return PtqRecipe(str(stated["name"]), **values)


def _check(given: PtqRecipe, where: str) -> None:
    """Raise InputError for values of the right types that do not form a valid recipe."""
    binary = given.rounding is Rounding.BILLM
    if binary and (given.bits != 1 or given.activation_bits != 16 or given.group or given.smooth or given.awq):
        raise InputError(f"{where}: billm has 1 bit, no groups, and no other methods before it")
    if not binary and not FEWEST_BITS <= given.bits <= MOST_BITS:
        raise InputError(f"{where}: weights can have {FEWEST_BITS} to {MOST_BITS} bits, not {given.bits}")
    if given.activation_bits not in ACTIVATION_BITS:
        raise InputError(f"{where}: activations can have 4, 8 or 16 bits, not {given.activation_bits}")
    if given.group < 0 or (given.group and given.group < SMALLEST_GROUP):
        raise InputError(f"{where}: a group has at least {SMALLEST_GROUP} columns, not {given.group}")
    if given.embedding_bits not in (8, 16):
        raise InputError(f"{where}: 'embedding_bits' is {given.embedding_bits}; it can be 8 or 16")
    if given.rounding is Rounding.HQQ and (not given.group or given.symmetric):
        raise InputError(f"{where}: hqq needs groups and has float zero points; write, for example, hqq:w4g64")
    if given.smooth and given.awq:
        raise InputError(f"{where}: sq and awq both choose the scales of the same channels; use one of them")
    if not 0 <= given.alpha <= 1:
        raise InputError(f"{where}: 'alpha' is {given.alpha}; it must be from 0 to 1")
    if given.vision and (given.rotate or given.asymmetric_calibration):
        step = "rot" if given.rotate else "+a"
        raise InputError(f"{where}: {step} is for the text decoder alone; leave {step} or {VISION} out")
    if given.asymmetric_calibration and given.inputs is not Inputs.LAYER:
        raise InputError(f"{where}: 'inputs' is '{given.inputs}', but GPTAQ (+a) needs 'layer'")
    if not 0 < given.damp < 1:
        raise InputError(f"{where}: 'damp' is {given.damp}; it must be above 0 and below 1")
    if given.block < 1:
        raise InputError(f"{where}: 'block' is {given.block}; it must be at least 1")
