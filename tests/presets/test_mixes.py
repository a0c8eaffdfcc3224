"""On the built-in models the XL mixes are better than plain quants of the same size, with the same imatrix."""

from __future__ import annotations

import pytest

import presets
from benchmarks import xl_mixes

SHARE = {"micro-moe": 0.3}
"""The share of the text that is enough, if not all of it: micro-moe is several times slower, and its gaps are several
times wider."""


@pytest.mark.release
@pytest.mark.parametrize("name", presets.builtin_models())
def test_mixes_lie_below_the_line_of_plain_quants(name: str) -> None:
    model = presets.builtin_models()[name]
    text, calibration = model.text.read_text(), model.calibration.read_text()
    text = text[: round(len(text) * SHARE.get(name, 1.0))]
    measured = xl_mixes.measure(model.directory, text, calibration, (*xl_mixes.PLAIN, *xl_mixes.MIXES))
    found = xl_mixes.gaps(measured)
    assert {gap.mix for gap in found} >= {"Q2_K_XL", "Q3_K_XL", "Q4_K_XL", "Q5_K_XL", "Q6_K_XL"}
    for gap in found:
        assert gap.high < 0, gap
