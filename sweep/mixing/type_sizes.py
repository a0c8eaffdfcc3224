"""The bytes of groups of tensors in each type, and the recipe file of a choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.llamacpp.container import padded
from converters.source import Source
from sweep.mixing.tensor_groups import TensorGroup, typed_tensors

BASES = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q6_K": "Q6_K", "Q8_0": "Q8_0"}
"""The types that a mix chooses from by default, with the plain quant whose name a file of mostly this type has."""


@dataclass(frozen=True)
class TypeSizes:
    """`sizes` are the bytes of each group in each type with padding, int64 [groups, types]. llama.cpp takes another
    type where a shape does not allow the one that was asked for; `sizes` counts that one."""

    groups: tuple[TensorGroup, ...]
    types: tuple[str, ...]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, source: Source, groups: Sequence[TensorGroup], types: Sequence[str]) -> TypeSizes:
        tables = [typed_tensors(source, type_) for type_ in types]
        rows = [[sum(padded(table[name].nbytes) for name in group.tensors) for table in tables] for group in groups]
        return cls(tuple(groups), tuple(types), np.array(rows, np.int64))

    def total(self, chosen: Sequence[int]) -> int:
        """The bytes of all groups with these types."""
        return int(self.sizes[np.arange(len(chosen)), list(chosen)].sum())

    def recipe(self, chosen: Sequence[int], comment: Sequence[str] = ()) -> str:
        """The file of the mix, in TOML: one rule for each group, the largest first."""
        of_group = {group.name: self.types[at] for group, at in zip(self.groups, chosen, strict=True)}
        return recipe_text(self.groups, of_group, self._base(chosen), comment)

    def _base(self, chosen: Sequence[int]) -> str:
        """The plain quant of the type with the most bytes. It decides only tensors without a rule."""
        amounts: Counter[str] = Counter()
        for group, at in enumerate(chosen):
            amounts[self.types[at]] += int(self.sizes[group, at])
        main = amounts.most_common(1)[0][0]
        return BASES.get(main, main)


def recipe_text(groups: Sequence[TensorGroup], types: Mapping[str, str], base: str, comment: Sequence[str]) -> str:
    lines = [*(f"# {line}" for line in comment), f'base = "{base}"', "rules = ["]
    lines += [f"  {{ regex = {_quoted(group.pattern)}, type = {_quoted(types[group.name])} }}," for group in groups]
    return "\n".join([*lines, "]", ""])


def _quoted(text: Any) -> str:
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
