"""The results on the real whisper-base: the figures in docs/speech.md follow from the stored counts of each recording.

whisper_base.json has what `sweep run --preset whisper-int8` stored: for each variant and recording the errors, the sum
of the KL divergence and the tokens on which both agree. The release test test_whisper_base.py measures it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speech.word_errors import UtteranceErrors
from sweep.measure import speech_results as results
from sweep.measure.speech_results import UtteranceResult

STORED = json.loads((Path(__file__).parent / "whisper_base.json").read_text())
PAGE = (Path(__file__).parents[2] / "docs" / "speech.md").read_text()


def recordings(variant: str) -> list[UtteranceResult]:
    def one(row: dict[str, Any]) -> UtteranceResult:
        return UtteranceResult(row["name"], "", UtteranceErrors(*row["errors"]), row["tokens"], row["kld"], row["same"])

    return [one(row) for row in STORED[variant]]


@pytest.mark.parametrize("variant", STORED)
def test_the_page_has_the_figures_of_the_stored_counts(variant: str) -> None:
    own = recordings(variant)
    rate, kld = results.word_error_rate(own), results.divergence(own)
    assert rate is not None
    (line,) = [line for line in PAGE.splitlines() if f" {variant} " in line]
    words = line.split()
    assert f"{100 * rate.value:.1f}" in words
    if kld is not None:
        assert f"{kld.value:.4f}" in words


def test_dynamic_scales_for_fc2_mend_static_int8() -> None:
    kld = {variant: results.divergence(recordings(variant)) for variant in STORED}
    static, mended = kld["int8:w8a8"], kld["int8:sq-ph-fc2"]
    assert static is not None
    assert mended is not None
    assert mended.value <= 0.0015
    assert mended.high is not None
    assert static.low is not None
    assert static.low > 5 * mended.high


@pytest.mark.parametrize("variant", STORED)
def test_word_errors_cannot_tell_most_recipes_apart(variant: str) -> None:
    paired = results.wer_difference(recordings(variant), recordings("torch:F32"))
    assert paired is not None
    assert paired.low is not None
    assert paired.high is not None
    assert paired.low <= paired.value <= paired.high
    if variant in ("int8:w8a16", "int8:w8a8-dyn", "int8:sq-ph-dyn", "int8:sq-ph-fc2"):
        assert paired.low <= 0 <= paired.high
