"""The figures of published studies of quantized models: Qwen3 (ptq-study.toml), vision models (vlm-study.toml)."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
PTQ, VLM = "ptq-study", "vlm-study"


@dataclass(frozen=True)
class StudyRow:
    """The figures of one variant.

    - `variant`: the one that the study says it is.
    - `wikitext2`, `c4`: perplexities; None where the study has NaN.
    - `tasks`: scores in percent, by lm-eval's name of the task.
    - `study`: the study's name, that of its files.
    """

    variant: str
    wikitext2: float | None
    c4: float | None
    tasks: Mapping[str, float]
    study: str = PTQ


@dataclass(frozen=True)
class Study:
    """`rows` by the model's name in lower case and the variant. `same` are variants that have the row of another one.

    `text` is the text of its perplexities; "" if it has none. `defects` by the row's variant, or by the part of it
    before the colon; "" for all rows.
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
def study(name: str) -> Study:
    """The study with the files NAME.toml and NAME.csv."""
    content = tomllib.loads((_FOLDER / f"{name}.toml").read_text())
    with open(_FOLDER / f"{name}.csv", newline="") as file:
        rows = {(line["model"].lower(), line["variant"]): _row(line, name) for line in csv.DictReader(file)}
    return Study(content["source"], content.get("text", ""), content["same"], content["defects"], rows)


def ptq_study() -> Study:
    """The study of Qwen3."""
    return study(PTQ)


def study_row(model: str, variant: str) -> StudyRow | None:
    """The figures of any study for a model and a variant; None if none has them."""
    return next((row for name in (PTQ, VLM) if (row := study(name).row(model, variant)) is not None), None)


def _row(line: dict[str, str], study: str) -> StudyRow:
    figures = {name: float(text) for name, text in line.items() if text and name not in ("model", "variant")}
    wikitext2, c4 = figures.pop("wikitext2", None), figures.pop("c4", None)
    return StudyRow(line["variant"], wikitext2, c4, figures, study)
