"""The terminal table fits every width, never wraps a row, and never uses colour as the only mark."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from sweep.analysis.run_candidates import advise_on_records
from sweep.format import MINUS
from sweep.record import Divergence, Memory, Record, Samples, Speed, TaskScore
from sweep.report.html import render_html
from sweep.report.results_table import render_table


def printed(records, width, *, colour=False, advice=None) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system="truecolor" if colour else None,
        legacy_windows=False,
    )
    console.print(render_table(records, width, advice))
    return console.file.getvalue()


def rows_of(output: str, variant: str) -> list[str]:
    return [line for line in output.splitlines() if re.match(rf"[►●○✗!… ]{{2}}  {re.escape(variant)} ", line)]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 180, 260])
def test_every_variant_is_one_line_per_table_and_no_line_is_too_long(records, failed, width):
    output = printed([*records, failed], width, advice=advise_on_records(records))
    assert max(map(len, output.splitlines())) <= width
    heads = [line for line in output.splitlines() if line.startswith("    variant ")]
    for record in records:
        assert len(rows_of(output, record.variant)) == len(heads)
    assert len(heads) == (1 if width >= 260 else 2)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_all_tasks_and_the_main_figures_are_shown(records, width):
    output = printed(records, width)
    for name in ("sums", "story", "facts", "form", "code"):
        assert re.search(rf"\b(micro_)?{name}\b", output.split("Tasks:")[0])
    for head in ("bpw", "size", "PPL", "KLD", "top-1 %", "recovery %"):
        assert head in output
    assert f"82.3 {MINUS}6.1" in output


def test_columns_are_dropped_by_priority_and_named(records):
    wide, narrow = printed(records, 260), printed(records, 60)
    assert "Not shown" not in wide
    assert "prompt t/s" in wide
    left_out = re.search(r"Not shown at this width: (.*?)\.\n", narrow, re.DOTALL)[1]
    assert "prompt t/s" in left_out
    assert "KLD 99.9%" in left_out
    assert re.search(r"bpw +size +PPL +KLD", narrow)


def test_values_of_a_column_are_aligned(records):
    output = printed(records, 100)
    for pattern in (r"\.\d{6}(?= )", r" [KM]iB", r"\d\.\d(?=[ ▼▲](?:  |$))"):  # divergences, sizes, task differences
        ends = {
            tuple(match.end() for match in re.finditer(pattern, row))
            for record in records
            for row in rows_of(output, record.variant)
            if record.variant != "BF16" and re.search(pattern, row)
        }
        assert len(ends) == 1, pattern


def test_every_coloured_cell_also_has_a_sign(records, failed):
    """Without colours, every coloured part of a row still has a sign."""
    coloured = printed([*records, failed], 140, colour=True, advice=advise_on_records(records))
    pieces = re.findall(r"\x1b\[([0-9;]*)m([^\x1b]*)\x1b\[0m", coloured)
    hued = [body for style, body in pieces if re.search(r"\b3[1-7]\b", style)]
    assert any("▼" in body for body in hued)
    joined = "".join(hued)
    for sign in "▼►●✗":
        assert sign in joined
    red = [body for style, body in pieces if re.search(r"\b31\b", style) and body.strip()]
    assert all(re.search(f"[▼✗{MINUS}±]", body) for body in red)


def test_no_color_is_respected(records, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[1-7]m", printed(records, 100, colour=True))


def test_markup_and_escapes_in_names_and_errors_are_printed_as_text(records, hostile):
    output = printed([*records, hostile], 200)
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "[bold red]" in output
    assert "[/red]</td><img src=x onerror=alert(2)>" in output


def test_failed_variants_show_their_error_below(records, failed):
    output = printed([*records, failed], 100)
    assert len(rows_of(output, "IQ4_XS")) == 2
    assert "✗ IQ4_XS failed: GGML_ASSERT(ne0 % 256 == 0) failed" in output


def test_a_long_name_is_cut_in_the_middle(records):
    path = "gguf:/very/long/directory/of/someone/models/Qwen3-4B-UD-Q4_K_XL.gguf"
    output = printed([*records, replace(records[1], variant=path)], 80)
    assert "Q4_K_XL.gguf"[-8:] in output
    assert max(map(len, output.splitlines())) <= 80


def test_tables_without_results_or_variants_are_complete():
    assert "No variant" in printed([], 80)
    bare = printed([Record("Q4_0", "gguf", "pending")], 80)
    assert "… Q4_0 pending" in bare
    assert "PPL" not in bare  # no column without figures
    broken = Record(
        "Q4_0", "gguf", "ok", None, None, float("nan"), Memory(), None,
        Divergence(float("nan"), 0.0, float("inf"), 0.0, 0.5), {"t": TaskScore("acc", float("nan"), 0.0, 0)},
    )  # fmt: skip
    output = printed([broken], 80)
    assert "nan" not in output
    assert not re.search(r"\binf\b", output)


def test_metrics_with_their_own_scale_are_not_shown_in_percent():
    score = TaskScore("word_perplexity", 12.345, 0.1, 50, higher_is_better=False)
    assert "12.345" in printed([Record("Q4_0", "gguf", "ok", tasks={"wikitext": score})], 80)


def test_an_indistinguishable_lead_has_a_sign_and_a_legend(records):
    rng = np.random.default_rng(0)
    windows = rng.gamma(2.0, 0.001, 60)
    noise = rng.normal(0, 1e-4, 60)
    near = {"Q5_K_M": windows, "Q6_K": windows - 1e-6 + (noise - noise.mean())}
    given = [
        replace(
            r,
            divergence=replace(r.divergence, kld_mean=near[r.variant].mean()),
            samples={"kld": Samples("text", near[r.variant])},
        )
        if r.variant in near
        else r
        for r in records
    ]
    output = printed(given, 140)
    assert [line[:2] for line in rows_of(output, "Q6_K")] == [" ○", " ○"]
    assert [line[:2] for line in rows_of(output, "Q5_K_M")] == [" ●", " ●"]
    assert "○ in it, but indistinguishable from the next smaller ●" in output
    assert "○" not in printed(records, 140)


def test_the_legend_says_which_tasks_have_subjects_as_units(records):
    grouped = [
        replace(r, tasks={task: replace(score, clusters=57) if task == "micro_facts" else score
                          for task, score in r.tasks.items()})
        for r in records
    ]  # fmt: skip
    assert "Errors and tests treat whole subjects, not items, as independent: micro_facts (57 subjects)." in printed(
        grouped, 140
    )
    assert "whole subjects" not in printed(records, 140)


def test_the_advice_is_marked_and_printed_once(records):
    output = printed(records, 140, advice=advise_on_records(records))
    assert output.count("Run Q4_K_M") == 1
    assert [line[0] for line in rows_of(output, "Q4_K_M")] == ["►", "►"]
    assert "►" not in printed(records, 140)


def test_no_error_is_rounded_to_zero(records):
    """The divergences alone would need fewer decimals."""
    few = [
        replace(record, divergence=replace(record.divergence, kld_mean=0.0123, kld_stderr=0.00004))
        for record in records
        if record.divergence is not None
    ]
    assert "0.01230  0.00004" in printed(few, 260)


def with_speeds(records: list[Record]) -> list[Record]:
    """The first variant has an unstable speed, the others a stable one."""
    speed = Speed(6000.0, 130.0, prompt_low=5900.0, prompt_high=6050.0, decode_low=97.0, decode_high=180.0)
    shaky = replace(speed, unstable=True, unstable_reasons=("its decode timings range from 97.0 to 180 tokens/s",))
    return [replace(record, speed=shaky if record is records[0] else speed) for record in records]


def test_speeds_are_shown_with_their_range_and_an_unstable_one_with_a_sign_and_a_note(records):
    output = printed(with_speeds(records), 300)
    (shaky,), (steady,) = rows_of(output, records[0].variant), rows_of(output, records[1].variant)
    assert re.search(r"~6,000 +5,900–6,050 +~130 +97.0–180", shaky)
    assert re.search(r" 6,000 +5,900–6,050 +130 +97.0–180", steady)
    assert "~ unstable speed" in output
    note = f"{records[0].variant}: its decode timings range from 97.0 to 180 tokens/s"
    assert note in " ".join(output.split())
    narrow = printed(with_speeds(records), 100)
    assert "range," not in narrow  # a range goes with its speed, which is named


def test_the_page_shows_ranges_in_brackets(records):
    page = render_html(with_speeds(records), {}, advise_on_records(records))
    assert "~130" in page
    assert "(97.0–180)" in page
    assert "its decode timings range from 97.0 to 180 tokens/s" in page
