"""The figures of a published study of quantized Qwen3 models; see ptq-study.toml."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class StudyRow:
    """The figures of one variant.

    - `variant`: the one that the study says it is.
    - `wikitext2`, `c4`: perplexities; None where the study has NaN.
    - `tasks`: scores in percent, by lm-eval's name of the task.
    """

    variant: str
    wikitext2: float | None
    c4: float | None
    tasks: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """`rows` by the model's name in lower case and the variant. `same` are variants that have the row of another one.

    `defects` by the part of the row's variant before the colon; "" for all of them.
    """

    source: str
    text: str
    same: Mapping[str, str]
    defects: Mapping[str, str]
    rows: Mapping[tuple[str, str], StudyRow]

    def row(self, model: str, variant: str) -> StudyRow | None:
        """The figures for a model, whose name may be a hub id, and a variant; None if the study has none."""
        return self.rows.get((model.rpartition("/")[2].lower(), self.same.get(variant, variant)))


@cache
def ptq_study() -> Study:
    """The study of ptq-study.toml and ptq-study.csv."""
    content = tomllib.loads((_FOLDER / "ptq-study.toml").read_text())
    with open(_FOLDER / "ptq-study.csv", newline="") as file:
        rows = {(line["model"].lower(), line["variant"]): _row(line) for line in csv.DictReader(file)}
    return Study(content["source"], content["text"], content["same"], content["defects"], rows)


def _row(line: dict[str, str]) -> StudyRow:
    figures = {name: float(text) for name, text in line.items() if text and name not in ("model", "variant")}
    wikitext2, c4 = figures.pop("wikitext2", None), figures.pop("c4", None)
    return StudyRow(line["variant"], wikitext2, c4, figures)
