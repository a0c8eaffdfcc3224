"""Recipes: what is quantized to int8 and how. The named recipes, and the reader of a recipe's TOML file.

Method: SmoothQuant (arXiv 2211.10438) with the finer attention scales of later W8A8 work on Qwen3. This module does not
import torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from converters.errors import InputError
from int8.recipe_table import read_toml, read_values


class Activations(StrEnum):
    """How the input of a linear layer is quantized."""

    STATIC = "static"  # one scale per tensor, from calibration
    DYNAMIC = "dynamic"  # one scale per token, from the token itself
    FLOAT = "float"  # not quantized: only the weights are int8 (W8A16)


class Scales(StrEnum):
    """How many static scales Q, K or V have."""

    FLOAT = "float"  # none, because it is not quantized
    TENSOR = "tensor"  # one
    HEAD = "head"  # one per head
    CHANNEL = "channel"  # one per channel of each head; only for V


class Insertion(StrEnum):
    """Where Q and K are quantized. V is quantized at the same place in both cases."""

    PROJECTION = "projection"  # the outputs of q_proj and k_proj, before q_norm, k_norm and RoPE
    ROPE = "rope"  # the inputs of the attention product, after norm and RoPE


class Fold(StrEnum):
    """Where scales are moved from activations into weights without changing the function of the model."""

    NORM_QKV = "norm->qkv"  # the norm before attention (or DeltaNet) and everything that reads it
    NORM_GATE_UP = "norm->gate/up"  # the norm before the MLP and everything that reads it, including experts and router
    UP_DOWN = "up->down"
    V_O = "v->o"  # in DeltaNet: the norm before out_proj and out_proj


class Stacks(StrEnum):
    """Which stacks of a model with an encoder and a decoder are quantized. Models of text have a decoder alone."""

    BOTH = "both"
    ENCODER = "encoder"
    DECODER = "decoder"

    def include(self, module: str) -> bool:
        """Whether the module with this path in a model, such as model.decoder.layers.0.fc1, is in these stacks."""
        other = {Stacks.ENCODER: "decoder", Stacks.DECODER: "encoder"}.get(self)
        return other not in module.split(".")


class Dequantizer(StrEnum):
    """The precision in which int32 products become activations again."""

    FP32_INTERNAL = "fp32-internal"  # scales, zero point and bias in float32, one cast at the end
    FP32_UPCAST = "fp32-upcast"  # everything in float32, including the output
    BF16 = "bf16"  # the product is cast to bfloat16 before its scales are applied


ALL_FOLDS = (Fold.NORM_QKV, Fold.NORM_GATE_UP, Fold.UP_DOWN, Fold.V_O)
_TOWERS = ("visual.*", "*.visual.*")
KEPT = (
    "lm_head", "*.mlp.gate", "*.shared_expert_gate", "*.in_proj_a", "*.in_proj_b", "*.in_proj_ba", "visual.*", "mtp.*",
    "*.visual.*", "*.mtp.*",
)  # fmt: skip
"""Linear layers that stay float: they are small and sensitive. Embeddings, norms and conv1d always stay float."""


VISION = "+vision"
"""After the name of a recipe: the vision tower and the merger are quantized too."""
NEEDS_IMAGES = (
    "the vision tower is calibrated with images; give --calibration a .jsonl file of conversations with images"
)


def text_path(module: str) -> str:
    """The path of a text model's module in a multi-modal model, as a text model has it: model.layers.0.mlp.gate."""
    return module.replace("model.language_model.", "model.", 1)


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern is for the module with this path in a model. Multi-modal models have their text model's layers
    in model.language_model.layers; patterns may also name these as in a text model, model.layers."""
    names = {module, text_path(module)}
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def without_tower(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns without those for a whole vision tower."""
    return tuple(one for one in patterns if one not in _TOWERS)


@dataclass(frozen=True)
class Recipe:
    """One way to quantize a model. Weights are int8 with one symmetric scale per output channel.

    - `alpha`: SmoothQuant's migration strength, 0 to 1, for the folds in `folds`.
    - `symmetric`: for the inputs of linear layers; `attention_symmetric`: for Q, K and V.
    - `percentile`: static ranges reach from the (100 - `percentile`)th to the `percentile`th percentile of the values
      seen in calibration.
    - `keep`: patterns (as for file names) of linear layers that stay float.
    - `fc2`: how the input of the MLP's last layer is quantized where it is the output of GELU, which no scale can be
      folded through: "dynamic" inside a recipe with static activations, "static" as the other layers.
    - `stacks`: of a model with an encoder and a decoder, such as Whisper.
    - `vision`: quantizes the linear layers of the vision tower and the merger too. Patterns of `keep` for the whole
      tower are ignored then. Attention in the tower stays float.
    - `int8_attention`: computes the attention products of a prefill on int8 Q, K and V, with float probabilities. It
      needs Q and K quantized after RoPE.
    - `int8_kv_cache`: holds past keys and values as int8, with the scales of K and V if they are quantized after RoPE,
      otherwise with one symmetric scale per token and head.
    """

    name: str
    alpha: float = 0.5
    activations: Activations = Activations.STATIC
    symmetric: bool = False
    query_key: Scales = Scales.FLOAT
    value: Scales = Scales.FLOAT
    insertion: Insertion = Insertion.PROJECTION
    attention_symmetric: bool = False
    folds: tuple[Fold, ...] = ()
    percentile: float = 100.0
    keep: tuple[str, ...] = KEPT
    int8_attention: bool = False
    int8_kv_cache: bool = False
    dequantizer: Dequantizer = Dequantizer.FP32_INTERNAL
    vision: bool = False
    fc2: Activations = Activations.STATIC
    stacks: Stacks = Stacks.BOTH

    def keeps(self, module: str) -> bool:
        """Whether the linear layer with this path in the model, such as model.layers.0.mlp.gate, stays float."""
        kept = without_tower(self.keep) if self.vision else self.keep
        return not self.stacks.include(module) or matches(module, kept)

    def activations_of(self, path: str) -> Activations:
        """How the input of the linear layer with this path, in the model or in a layer of it, is quantized."""
        return self.fc2 if self.has_dynamic_fc2 and path.rpartition(".")[2] == "fc2" else self.activations

    @property
    def has_dynamic_fc2(self) -> bool:
        """Whether the input of fc2 is quantized in another way than those of the other layers."""
        return self.activations is Activations.STATIC and self.fc2 is Activations.DYNAMIC

    @property
    def quantizes_attention(self) -> bool:
        return self.query_key is not Scales.FLOAT or self.value is not Scales.FLOAT

    @property
    def needs_text(self) -> bool:
        """Whether the recipe depends on activations, so that it needs a calibration text."""
        return bool(self.folds) or self.quantizes_attention or self.activations is Activations.STATIC

    @property
    def calibrates_tower(self) -> bool:
        """Whether the recipe needs images to quantize the vision tower."""
        return self.vision and (bool(self.folds) or self.activations is Activations.STATIC)

    def to_json(self) -> dict[str, Any]:
        """The recipe as a JSON object, including its name; `from_json` reads it. Without the settings that came later
        if they have their defaults, so that keys of stored results stay."""
        stated = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in stated.items() if key not in _LATER or value != _LATER[key]}


_LATER: Mapping[str, Any] = {"vision": False, "fc2": Activations.STATIC, "stacks": Stacks.BOTH}


_PER_HEAD = Recipe("sq-ph", alpha=0.65, query_key=Scales.HEAD, value=Scales.HEAD, folds=ALL_FOLDS)

NAMED: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("sq", alpha=0.8, query_key=Scales.TENSOR, value=Scales.CHANNEL, folds=ALL_FOLDS),
        _PER_HEAD,
        replace(_PER_HEAD, name="sq-ph-dyn", activations=Activations.DYNAMIC),
        Recipe("w8a8"),
        Recipe("w8a8-dyn", activations=Activations.DYNAMIC),
        Recipe("w8a16", activations=Activations.FLOAT),
    )
}
"""The first three are published recipes; the others do not smooth, and leave attention in float."""
SPEECH_NAMED: Mapping[str, Recipe] = {"sq-ph-fc2": replace(_PER_HEAD, name="sq-ph-fc2", fc2=Activations.DYNAMIC)}
"""Recipes for models whose MLP has GELU and no gate, such as Whisper."""
_ALL: Mapping[str, Recipe] = {**NAMED, **SPEECH_NAMED}
_WITH_ALPHA = re.compile(r"(.+)-a(0(?:\.\d{1,3})?|1)")
PUBLISHED = ("sq", "sq-ph", "sq-ph-dyn")


def recipe(name: str) -> Recipe:
    """A named recipe, perhaps with another alpha (sq-ph-a0.8), or one from a TOML file, and perhaps "+vision",
    "@encoder" or "@decoder" after it. Raises InputError that names the file and the key."""
    if name.endswith(VISION):
        chosen = recipe(name.removesuffix(VISION))
        return replace(chosen, name=f"{chosen.name}{VISION}", vision=True)
    for stacks in (Stacks.ENCODER, Stacks.DECODER):
        if name.endswith(f"@{stacks}"):
            chosen = recipe(name.removesuffix(f"@{stacks}"))
            return replace(chosen, name=f"{chosen.name}@{stacks}", stacks=stacks)
    if name in _ALL:
        return _ALL[name]
    changed = _WITH_ALPHA.fullmatch(name)
    if changed is not None and changed[1] in _ALL and _ALL[changed[1]].folds:
        alpha = float(changed[2])
        return replace(_ALL[changed[1]], name=f"{changed[1]}-a{alpha:g}", alpha=alpha)
    file = Path(name).expanduser()  # after "int8:" the shell does not expand ~
    if not file.is_file():
        near = difflib.get_close_matches(name, _ALL, n=2) or NAMED
        raise InputError(f"{name}: there is no recipe and no TOML file with this name; did you mean {', '.join(near)}?")
    return from_table(read_toml(file), str(file), file.stem)


_ELEMENTS: Mapping[str, type] = {"folds": Fold, "keep": str}


def from_table(table: Mapping[str, Any], where: str, name: str) -> Recipe:
    """A recipe from the keys of a TOML or JSON object. The key `base` names a recipe that the other keys change.

    Raises InputError that names `where` and the key.
    """
    base = table.get("base")
    if base is not None and (not isinstance(base, str) or base not in _ALL):
        raise InputError(f"{where}: 'base' is {base!r}; known are {', '.join(_ALL)}")
    values = read_values(Recipe, {key: value for key, value in table.items() if key != "base"}, where, _ELEMENTS)
    given = replace(_ALL[base] if base else Recipe(name), **{**values, "name": name})
    _check(given, where)
    return given


def from_json(stated: Mapping[str, Any], where: str) -> Recipe:
    """The recipe from the result of `Recipe.to_json`. Raises InputError that names `where` and the key."""
    return from_table({key: value for key, value in stated.items() if key != "name"}, where, str(stated["name"]))


def _check(given: Recipe, where: str) -> None:
    """Raise InputError for values of the right types that do not form a valid recipe."""
    if not 0 <= given.alpha <= 1:
        raise InputError(f"{where}: 'alpha' is {given.alpha}; it must be from 0 to 1")
    if not 50 < given.percentile <= 100:
        raise InputError(f"{where}: 'percentile' is {given.percentile}; it must be above 50 and up to 100")
    if given.fc2 is Activations.FLOAT:
        raise InputError(f"{where}: 'fc2' is 'float'; known are static, dynamic (keep leaves a layer float)")
    if given.fc2 is Activations.DYNAMIC and given.activations is not Activations.STATIC:
        raise InputError(f"{where}: 'fc2' is for recipes with static activations; leave it out")
    if given.query_key is Scales.CHANNEL:  # a scale per summand of q.k cannot be taken out of the sum
        raise InputError(f"{where}: 'query_key' is 'channel'; only V can have a scale per channel")
    if given.int8_attention and (
        given.insertion is not Insertion.ROPE or Scales.FLOAT in (given.query_key, given.value)
    ):
        raise InputError(f"{where}: 'int8_attention' needs query_key, value and insertion = 'rope'")
