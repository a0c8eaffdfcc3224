"""Recipes compared on one model: what each costs, by how much it is behind the best one, and which of that is real.

Every recipe reads the same windows of a text, so differences are paired by window; p values are corrected by Holm's
method over all recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from int8.design_space import DesignSpace
from int8.recipe import ALL_FOLDS, Activations, Insertion, Recipe, Scales
from sweep.record import Perplexity
from sweep.statistics import ALPHA, PairedDifference, compare_differences, holm


@dataclass(frozen=True)
class Measured:
    """One recipe over the text: mean negative log-likelihood and KL divergence from the float model by window."""

    perplexity: Perplexity
    window_nll: tuple[float, ...]
    window_kld: tuple[float, ...]
    kld_mean: float
    kld_stderr: float
    top1_agreement: float


@dataclass(frozen=True)
class RecipePoint:
    """A measured recipe among the others.

    `loss` is ln(PPL / PPL of the float model), `behind` ln(PPL / PPL of the best recipe), in nats per token, None for
    the best one itself. `least_kld` says whether its divergence is the least, or not distinguishable from the least.
    """

    recipe: Recipe
    measured: Measured
    loss: PairedDifference
    loss_holm: float
    behind: PairedDifference | None
    behind_holm: float
    least_kld: bool

    @property
    def costs(self) -> bool:
        """Whether it is distinguishable from the float model."""
        return self.loss_holm < ALPHA

    @property
    def is_best(self) -> bool:
        return self.behind is None

    @property
    def is_as_good(self) -> bool:
        """Whether it is the best one, or not distinguishable from it."""
        return self.behind_holm >= ALPHA

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": {key: value for key, value in self.recipe.to_json().items() if key != "name"},
            "perplexity": asdict(self.measured.perplexity),
            "ln_ratio": asdict(self.loss) | {"p_holm": self.loss_holm, "real": self.costs},
            "behind_best": None
            if self.behind is None
            else asdict(self.behind) | {"p_holm": self.behind_holm, "real": not self.is_as_good},
            "divergence": {
                "kld_mean": self.measured.kld_mean,
                "kld_stderr": self.measured.kld_stderr,
                "top1_agreement": self.measured.top1_agreement,
                "like_the_least": self.least_kld,
            },
        }


@dataclass(frozen=True)
class Ablation:
    """All that a report shows: `points` from the least loss to the greatest; `failed` recipes and why; `about`, how it
    was measured, for people."""

    model: str
    space: DesignSpace
    reference: Perplexity
    points: tuple[RecipePoint, ...]
    failed: tuple[tuple[Recipe, str], ...]
    about: Mapping[str, object]

    def of(self, recipe: Recipe) -> RecipePoint | None:
        return next((point for point in self.points if point.recipe == recipe), None)

    def to_json(self) -> dict[str, Any]:
        """A grid's `points` are numbers of the list of points, null where one failed."""
        number = {point.recipe: i for i, point in enumerate(self.points)}
        return {
            "model": self.model,
            "title": self.space.title,
            "reference": asdict(self.reference),
            "points": [point.to_json() for point in self.points],
            "failed": [{"recipe": recipe.to_json(), "error": error} for recipe, error in self.failed],
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


def ranked(measured: Mapping[Recipe, Measured], reference: Sequence[float]) -> tuple[RecipePoint, ...]:
    """From the least loss to the greatest; `reference` is the float model's mean negative log-likelihood by window."""
    if not measured:
        return ()
    order = sorted(measured, key=lambda recipe: fmean(measured[recipe].window_nll))
    rows = [measured[recipe].window_nll for recipe in order]
    losses = [_difference(row, reference) for row in rows]
    behind = [_difference(row, rows[0]) for row in rows[1:]]
    costs = holm([found.p_value for found in losses])
    worse = [1.0, *holm([found.p_value for found in behind])]
    _, close = least({recipe: measured[recipe].window_kld for recipe in order})
    return tuple(
        RecipePoint(
            recipe, measured[recipe], losses[i], float(costs[i]), [None, *behind][i], float(worse[i]), recipe in close
        )
        for i, recipe in enumerate(order)
    )


def least(rows: Mapping[Recipe, Sequence[float]]) -> tuple[Recipe, set[Recipe]]:
    """Of figures by window: the recipe of the least mean, and all that are not distinguishable from it, it too."""
    best = min(rows, key=lambda recipe: fmean(rows[recipe]))
    others = [recipe for recipe in rows if recipe != best]
    p_values = holm([_difference(rows[recipe], rows[best]).p_value for recipe in others])
    return best, {best} | {recipe for recipe, p in zip(others, p_values, strict=True) if p >= ALPHA}


def _difference(row: Sequence[float], other: Sequence[float]) -> PairedDifference:
    return compare_differences(np.array(row) - np.array(other))


def told(recipe: Recipe) -> dict[str, str]:
    """What is set in a recipe in a few words each, by what it is about; empty where nothing depends on it."""
    words = {
        "alpha": f"{recipe.alpha:g}" if recipe.folds else "",
        "inputs": _INPUTS[recipe.activations] + (", symmetric" if recipe.symmetric else ""),
        "folds": _folds(recipe),
        "Q/K": recipe.query_key.value,
        "V": recipe.value.value,
        "Q/K at": "" if recipe.query_key is Scales.FLOAT else _PLACES[recipe.insertion],
    }
    plain = Recipe("")
    for key in ("attention_symmetric", "percentile", "keep", "int8_kv_cache"):
        value = getattr(recipe, key)
        words[key] = "" if value == getattr(plain, key) else ", ".join(value) if key == "keep" else str(value)
    return words


def name_of(recipe: Recipe) -> str:
    """All that is told of a recipe, on a line."""
    return ", ".join(f"{about} {words}" for about, words in told(recipe).items() if words)


_INPUTS = {Activations.STATIC: "static", Activations.DYNAMIC: "per token", Activations.FLOAT: "float"}
_PLACES = {Insertion.PROJECTION: "projection", Insertion.ROPE: "RoPE"}


def _folds(recipe: Recipe) -> str:
    left = [fold.value for fold in ALL_FOLDS if fold not in recipe.folds]
    if not recipe.folds:
        return "none"
    if len(left) <= 1:
        return f"without {left[0]}" if left else "all"
    norms = {ALL_FOLDS[0], ALL_FOLDS[1]}
    return "norms" if set(recipe.folds) == norms else ", ".join(recipe.folds)
