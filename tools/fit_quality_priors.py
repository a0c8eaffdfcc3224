"""Write presets/quality.toml, the expected KL divergence of quants, from a table of published measurements.

    python tools/fit_quality_priors.py published_quality.csv

The table has the columns model, quant, uploader, metric, dataset, value. Two sets of rows are used:

- Rows of models whose weights all have one type ("pure"). A least-squares fit of ln(KLD) to them gives, per type, the
  divergence at REFERENCE parameters and how it falls with the size of the model, and a factor per family.
- Rows of quants that people publish. What the fit predicts for the types in such a file is compared with them, which
  gives the spread of the prediction: other texts, windows and importance matrices.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

import numpy as np

from converters.llamacpp.ghost import ghost
from converters.plan import plan_file
from converters.recipes import QUANTS, recipe
from converters.resolver import Need, find_model
from converters.source import Source
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.weight_types import WeightTypes

PAGE = Path(__file__).parent.parent / "presets" / "quality.toml"
REFERENCE = 8e9
PURE = "pure single-qtype swap of tensor group group0 over whole model"
# Models of the table that have the shapes of a model in the catalogue.
SAME_SHAPES = {
    "Qwen3-4B-Instruct-2507": "Qwen3-4B",
    "Qwen3-4B-Thinking-2507": "Qwen3-4B",
    "Qwen3-VL-235B-A22B-Instruct": "Qwen3-235B-A22B",
    "Qwen3-VL-235B-A22B-Thinking": "Qwen3-235B-A22B",
}
# llama.cpp's types by their names in the table. The others are types of ik_llama.cpp.
TYPES = {
    name.lower(): name
    for name in (
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL"),
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    )
}
# Publishers whose files have the types of llama.cpp's quants of the same name ("i1-" says that an imatrix was used).
PLAIN_PUBLISHERS = ("bartowski", "unsloth", "mradermacher", "lmstudio-community")
HEADER = """\
# Expected KL divergence of a quant from the unquantized model, in nats per token: what `sweep fit` assumes before
# anything is measured. Written by tools/fit_quality_priors.py from published measurements of Qwen3 to Qwen3.6 models.
#
# A model whose weights all have type T has the expected divergence
#
#     kld(T) * (parameters / reference_parameters) ** exponent(T) * factor(family)
#
# where `parameters` is sqrt(all parameters * parameters that a token uses), which makes models with experts and dense
# models comparable. A file with several types has the mean over its weights, times `published`: files are made with an
# importance matrix and measured on other texts than the pure types. `spread` are standard deviations of ln(KLD): of the
# pure types around the formula, and of published files around the prediction for them.
"""


@dataclass(frozen=True)
class PureRow:
    """A measurement of a model whose weights all have one type."""

    type: str
    parameters: float
    family: str
    kld: float


def opened(model: str) -> Source:
    found = find_model(SAME_SHAPES.get(model, model), Need.HEADERS)
    return found.open(found.name, requantize=True)


def pure_rows(table: Sequence[Mapping[str, str]]) -> list[PureRow]:
    sizes: dict[str, tuple[float, str]] = {}
    rows = []
    for row in table:
        quant, kld = TYPES.get(row["quant"].lower()), float(row["value"]) if row["metric"] == "KLD_mean" else 0.0
        if quant is None or kld <= 0.0 or not row["note"].startswith(PURE):
            continue
        model = row["model"]
        if model not in sizes:
            source = opened(model)
            weights = WeightTypes.of(ModelShape.of(source.structure, source.tensors), source.tensors)
            sizes[model] = weights.effective, family(model)
        rows.append(PureRow(quant, *sizes[model], kld))
    return rows


def family(model: str) -> str:
    """The family's name in presets/quality.toml: the beginning of llama.cpp's names of its architectures."""
    return "qwen35" if model.startswith(("Qwen3.5", "Qwen3.6")) else "qwen3"


@dataclass(frozen=True)
class QualityFit:
    kld: Mapping[str, float]
    exponent: Mapping[str, float]
    factor: Mapping[str, float]
    spread: float

    def predict(self, weights: WeightTypes, family: str) -> float:
        size = weights.effective / REFERENCE
        return self.factor[family] * sum(
            share * self.kld[name] * size ** self.exponent[name]
            for name, share in weights.shares.items()
            if name in self.kld
        )


def fit(rows: Sequence[PureRow]) -> QualityFit:
    """Least squares of ln(KLD): one value and one exponent per type, one factor for the family qwen3."""
    types = list(dict.fromkeys(row.type for row in rows))
    matrix = np.zeros((len(rows), 2 * len(types) + 1))
    for index, row in enumerate(rows):
        column = types.index(row.type)
        matrix[index, column] = 1.0
        matrix[index, len(types) + column] = log(row.parameters / REFERENCE)
        matrix[index, -1] = row.family == "qwen3"
    target = np.log([row.kld for row in rows])
    found, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    residuals = target - matrix @ found
    spread = float(np.sqrt((residuals**2).sum() / (len(rows) - matrix.shape[1])))
    return QualityFit(
        dict(zip(types, np.exp(found[: len(types)]).tolist(), strict=True)),
        dict(zip(types, found[len(types) : -1].tolist(), strict=True)),
        {"qwen35": 1.0, "qwen3": exp(found[-1])},
        spread,
    )


@dataclass(frozen=True)
class PublishedFile:
    """A measurement of a published file, and what the fit predicts. `source`: model and text of the measurement."""

    source: tuple[str, str]
    quant: str
    measured: float
    predicted: float


def published_files(table: Sequence[Mapping[str, str]], found: QualityFit) -> list[PublishedFile]:
    """The published files whose types llama.cpp's recipe of the same name gives."""
    rows = []
    for row in table:
        quant = row["quant"].removeprefix("i1-")
        if row["metric"] != "KLD_mean" or row["uploader"] not in PLAIN_PUBLISHERS or quant not in QUANTS:
            continue
        source = opened(row["model"])
        with ghost(source.structure, source.tensors) as path:
            plan = plan_file(source, recipe(quant), path)
        weights = WeightTypes.of(ModelShape.of(source.structure, plan.tensors), plan.tensors)
        predicted = found.predict(weights, family(row["model"]))
        rows.append(PublishedFile((row["model"], row["dataset"]), quant, float(row["value"]), predicted))
    return rows


def factor_and_spread(files: Sequence[PublishedFile]) -> tuple[float, float]:
    """The geometric mean of measured / predicted, and the standard deviation of its logarithm; each source counts the
    same, because files of one source share its text."""
    by_source: dict[tuple[str, str], list[float]] = {}
    for file in files:
        by_source.setdefault(file.source, []).append(log(file.measured / file.predicted))
    mean = float(np.mean([np.mean(logs) for logs in by_source.values()]))
    variance = float(np.mean([np.mean((np.array(logs) - mean) ** 2) for logs in by_source.values()]))
    return exp(mean), variance**0.5


def written(found: QualityFit, published: float, spread: float, sizes: tuple[float, float]) -> str:
    lines = [
        HEADER,
        f"reference_parameters = {REFERENCE:.0e}",
        f"measured_parameters = [{sizes[0]:.2e}, {sizes[1]:.2e}]",
    ]
    lines += [f"published = {published:.2f}", "", "[spread]"]
    lines += [f"types = {found.spread:.2f}", f"published = {spread:.2f}", "", "[families]"]
    lines += [f"{name} = {factor:.2f}" for name, factor in found.factor.items()]
    lines += ["", "[types]"]
    for name in sorted(found.kld, key=lambda name: found.kld[name]):
        lines.append(f"{name} = {{ kld = {found.kld[name]:.3g}, exponent = {found.exponent[name]:.2f} }}")
    return "\n".join(lines) + "\n"


def main(path: str) -> None:
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    rows = pure_rows(table)
    found = fit(rows)
    files = published_files(table, found)
    for file in files:
        ratio = (
            f"measured {file.measured:.4f}, predicted {file.predicted:.4f}, ratio {file.measured / file.predicted:.2f}"
        )
        print(f"{file.source[0]:14} {file.quant:7} {ratio} ({file.source[1]})")
    published, spread = factor_and_spread(files)
    print(f"{len(rows)} measurements of pure types, spread {found.spread:.3f}")
    print(f"{len(files)} published files, factor {published:.3f}, spread {spread:.3f}")
    sizes = [row.parameters for row in rows]
    PAGE.write_text(written(found, published, spread, (min(sizes), max(sizes))))


if __name__ == "__main__":
    main(sys.argv[1])
