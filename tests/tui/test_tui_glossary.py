"""The words of the help window are those of docs/glossary.md, and its signs are all that a screen shows."""

from __future__ import annotations

import re

from driving import ROOT

from sweep import format as fmt
from tui.app import SCREEN_OF_MODE
from tui.glossary import GLOSSARY
from tui.screens.legend import SIGNS, TERMS
from tui.widgets import fit_table, job_table, memory_bar, plot


def test_the_words_are_explained_as_in_the_documentation() -> None:
    page = (ROOT / "docs/glossary.md").read_text().replace("`", "").replace("*", "")
    rows = {row[0]: row[1] for row in re.findall(r"^\| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE)}
    for term, meaning in GLOSSARY.items():
        assert rows[term].startswith(meaning.removesuffix(".")), term
    used = {term for terms in TERMS.values() for term in terms}
    assert used == set(GLOSSARY)


def test_every_sign_of_a_screen_is_explained() -> None:
    assert set(SIGNS) == set(TERMS) == set(SCREEN_OF_MODE)
    written = {mode: " ".join(sign for sign, _ in lines) for mode, lines in SIGNS.items()}
    used = {
        "fit": {fmt.CHOSEN, "+", *fit_table.SIGNS.values(), *memory_bar._LETTERS.values()},
        "plan": {"✓", "+", "✗"},
        "run": set(job_table.SIGNS.values()),
        "results": {
            fmt.CHOSEN, fmt.PARETO, fmt.INDISTINGUISHABLE, fmt.IMPLAUSIBLE, fmt.LOSS, fmt.GAIN, fmt.NO_DIFFERENCE,
            *fmt.STATUS_SIGNS.values(), plot.MARK_CHOSEN, plot.MARK_OFF, plot.MARK_PARETO, plot.MARK_INDISTINGUISHABLE,
        },
    }  # fmt: skip
    for mode, signs in used.items():
        assert [sign for sign in signs if sign not in written[mode]] == [], mode
