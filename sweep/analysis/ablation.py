"""Compares the setups of an ablation: the loss of each, how far it is behind the best, and what is significant.

All setups read the same windows of a text, so differences are paired by window. p values are corrected by Holm's
method over all recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from int8.design_space import DesignSpace, Setup
from sweep.record import Perplexity
from sweep.statistics import ALPHA, PairedDifference, compare_differences, holm


@dataclass(frozen=True)
class RecipeMeasurement:
    """One recipe on the text. `window_nll` and `window_kld` are means over each window, in nats per token: the negative
    log-likelihood and the KL divergence from the float model. `bits_per_weight`: see RecipeResult."""

    perplexity: Perplexity
    window_nll: tuple[float, ...]
    window_kld: tuple[float, ...]
    kld_mean: float
    kld_stderr: float
    top1_agreement: float
    bits_per_weight: float | None = None


@dataclass(frozen=True)
class RecipePoint:
    """A recipe with its comparisons.

    `loss` is ln(PPL / PPL of the float model) and `behind` is ln(PPL / PPL of the best recipe), both in nats per token;
    `behind` is None for the best recipe itself. `least_kld`: its divergence is the lowest, or indistinguishable from
    the lowest.
    """

    recipe: Setup
    measured: RecipeMeasurement
    loss: PairedDifference
    loss_holm: float
    behind: PairedDifference | None
    behind_holm: float
    least_kld: bool

    @property
    def differs(self) -> bool:
        """Whether it differs significantly from the float model."""
        return self.loss_holm < ALPHA

    @property
    def is_best(self) -> bool:
        return self.behind is None

    @property
    def is_as_good(self) -> bool:
        """Whether it is the best recipe, or indistinguishable from it."""
        return self.behind_holm >= ALPHA

    def to_json(self) -> dict[str, Any]:
        bits = self.measured.bits_per_weight
        return {
            "recipe": {key: value for key, value in self.recipe.to_json().items() if key != "name"},
            "perplexity": asdict(self.measured.perplexity),
            "ln_ratio": asdict(self.loss) | {"p_holm": self.loss_holm, "real": self.differs},
            "behind_best": None
            if self.behind is None
            else asdict(self.behind) | {"p_holm": self.behind_holm, "real": not self.is_as_good},
            "divergence": {
                "kld_mean": self.measured.kld_mean,
                "kld_stderr": self.measured.kld_stderr,
                "top1_agreement": self.measured.top1_agreement,
                "like_the_least": self.least_kld,
            },
            **({} if bits is None else {"bits_per_weight": bits}),
        }


@dataclass(frozen=True)
class RecipeFailure:
    """A recipe without figures: how its job ended (Ending), and the error."""

    recipe: Setup
    status: str
    error: str

    def to_json(self) -> dict[str, Any]:
        return {"recipe": self.recipe.to_json(), "status": self.status, "error": self.error}


@dataclass(frozen=True)
class Ablation:
    """The content of a report: `points` from the least to the largest loss, `failed` recipes, and
    `about`, a description of how it was measured."""

    model: str
    space: DesignSpace
    reference: Perplexity
    points: tuple[RecipePoint, ...]
    failed: tuple[RecipeFailure, ...]
    about: Mapping[str, object]

    def of(self, recipe: Setup) -> RecipePoint | None:
        return next((point for point in self.points if point.recipe == recipe), None)

    def to_json(self) -> dict[str, Any]:
        """As JSON. The `points` of a grid are indices into the list of points, null for a failed recipe."""
        number = {point.recipe: i for i, point in enumerate(self.points)}
        return {
            "model": self.model,
            "title": self.space.title,
            "reference": asdict(self.reference),
            "points": [point.to_json() for point in self.points],
            "failed": [one.to_json() for one in self.failed],
            "grids": [
                {
                    "title": grid.title,
                    "base": grid.base,
                    "rows": {"axis": grid.rows.name, "values": grid.rows.labels},
                    "columns": {"axis": grid.columns.name, "values": grid.columns.labels},
                    "points": [[number.get(recipe) for recipe in row] for row in grid.recipes],
                }
                for grid in self.space.grids
            ],
            "about": dict(self.about),
        }


def ranked(measured: Mapping[Setup, RecipeMeasurement], reference: Sequence[float]) -> tuple[RecipePoint, ...]:
    """The recipes from the least to the largest loss. `reference` is the float model's `window_nll`."""
    if not measured:
        return ()
    order = sorted(measured, key=lambda recipe: fmean(measured[recipe].window_nll))
    rows = [measured[recipe].window_nll for recipe in order]
    losses = [_difference(row, reference) for row in rows]
    behind = [_difference(row, rows[0]) for row in rows[1:]]
    costs = holm([found.p_value for found in losses])
    worse = [1.0, *holm([found.p_value for found in behind])]
    _, lowest_kld = least({recipe: measured[recipe].window_kld for recipe in order})
    return tuple(
        RecipePoint(
            recipe,
            measured[recipe],
            loss=losses[i],
            loss_holm=float(costs[i]),
            behind=[None, *behind][i],
            behind_holm=float(worse[i]),
            least_kld=recipe in lowest_kld,
        )
        for i, recipe in enumerate(order)
    )


def least(rows: Mapping[Setup, Sequence[float]]) -> tuple[Setup, set[Setup]]:
    """The recipe with the lowest mean over windows, and the set of it and all recipes indistinguishable from it."""
    best = min(rows, key=lambda recipe: fmean(rows[recipe]))
    others = [recipe for recipe in rows if recipe != best]
    p_values = holm([_difference(rows[recipe], rows[best]).p_value for recipe in others])
    return best, {best} | {recipe for recipe, p in zip(others, p_values, strict=True) if p >= ALPHA}


def _difference(row: Sequence[float], other: Sequence[float]) -> PairedDifference:
    return compare_differences(np.array(row) - np.array(other))
