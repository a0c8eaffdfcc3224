"""Figures that quantization does not usually explain are marked wherever results are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweep.analysis.run_candidates import advise_on_records
from sweep.analysis.trust import trust_notes
from sweep.record import Divergence, Perplexity, Record
from sweep.report.html import render_html
from sweep.report.results_table import render_table
from sweep.results.plausibility import with_doubts


def measured(bits: float, kld: float, top1: float, ratio: float = 1.1) -> Record:
    divergence = Divergence(kld, 0.01, 9.0, 9.0, top1, perplexity_ratio=ratio)
    return Record("X", "gguf", "ok", bits_per_weight=bits, file_bytes=9, divergence=divergence, reference="BF16")


@pytest.mark.parametrize(
    ("bits", "kld", "top1", "ratio"),
    [
        (3.06, 0.50, 0.75, 1.7),  # IQ3_XXS of Qwen3.5-0.8B, the worst of the published ones with three bits
        (2.63, 1.30, 0.60, 4.0),  # Q2_K of the same model
        (1.75, 5.73, 0.15, 300.0),  # IQ1_M of the same model
    ],
)
def test_what_small_quants_of_small_models_really_do_is_plausible(bits, kld, top1, ratio):
    assert with_doubts([measured(bits, kld, top1, ratio)])[0].implausible == ()


@pytest.mark.parametrize(
    ("bits", "kld", "top1", "ratio", "words"),
    [
        (8.5, 0.2, 0.49, 1.2, "its top token is that of BF16 at 49.0 % of the positions, under 50 %"),
        (4.8, 1.01, 0.6, 2.0, "its mean KL divergence is 1.01 nats, over 1"),
        (4.8, 0.9, 0.6, 101.0, "its perplexity is 101 times that of BF16, over 100"),
        (2.0, 12.8, 0.1, 900.0, "its mean KL divergence is 12.80 nats, over 8"),  # a ternary type of a published table
        (2.0, 7.0, 0.01, 900.0, "under 5 %"),
    ],
)
def test_what_only_mistakes_do_is_implausible(bits, kld, top1, ratio, words):
    (found,) = with_doubts([measured(bits, kld, top1, ratio)])[0].implausible
    assert words in found


def test_perplexities_are_compared_without_a_divergence(baseline):
    other = replace(baseline, variant="X", perplexity=Perplexity(2.8152 * 150, 1.0, 10), reference="BF16")
    assert "150 times" in with_doubts([baseline, other])[1].implausible[0]
    assert with_doubts([baseline])[0].implausible == ()


def test_table_report_json_and_notes_show_the_mark_and_the_causes(records):
    from rich.console import Console

    bad = replace(records[3], divergence=replace(records[3].divergence, kld_mean=9.0, top1_agreement=0.001))
    rows = with_doubts([*records[:3], bad, *records[4:]])
    assert [bool(row.implausible) for row in rows] == [row.variant == bad.variant for row in rows]
    assert rows[3].to_json()["implausible"] == rows[3].implausible
    note = trust_notes(rows)[0]
    assert "its top token is that of BF16 at 0.1 % of the positions" in note
    assert "Likely causes: another tokenizer" in note
    console = Console(width=200, color_system=None)
    with console.capture() as printed:
        console.print(render_table(rows, 200))
    lines = [line for line in printed.get().splitlines() if line.lstrip("?► ●○").startswith("Q4_K_M ")]
    assert lines
    assert all(line.startswith("?") for line in lines)
    assert "? implausible figures" in printed.get()
    page = render_html(rows, {"model": "m"}, advise_on_records(rows))
    assert "Likely causes: another tokenizer" in page
    assert 'title="implausible: its top token' in page
