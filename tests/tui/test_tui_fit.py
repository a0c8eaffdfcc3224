"""The Fit screen: the figures of `sweep fit`, and every key."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from driving import opened, play, shown, sweep, until
from fit_reports import MIB, report, row
from rich.style import Style

from sweep import format as fmt
from sweep.fit.fit_report import FitFigure, from_json, to_json
from sweep.fit.hardware import parse_devices
from sweep.workspace import Workspace
from tui.screens.fit import FitScreen
from tui.screens.pager import PagerScreen
from tui.state.fit_answer import FitAnswer
from tui.state.question import Question
from tui.theme import Palette
from tui.widgets.fit_table import fit_rows
from tui.widgets.memory_bar import memory_bars
from tui.widgets.table import Table
from tui.widgets.text_pane import TextPane

NO_COLOURS = Palette(**{field.name: Style() for field in fields(Palette)})


def answered(screen: FitScreen) -> bool:
    return screen.report is not None and not screen._busy and screen._timer is None


def test_a_fit_report_survives_a_round_trip_through_json(swept: Workspace) -> None:
    output = sweep("fit", "micro", "--gpu", "12GiB", "--variants", "Q4_K_M,Q8_0", "--format", "json").stdout
    report = json.loads(output)
    del report["advice"]  # it is made from the report, as two fields of each row are
    for one in report["rows"]:
        del one["expected_kld"], one["tokens_per_s"]
    assert to_json(from_json(report)) == report


@pytest.mark.usefixtures("asks_processes")
def test_the_screen_shows_the_figures_of_sweep_fit(swept: Workspace) -> None:
    given = ("fit", "micro", "--gpu", "12GiB", "--format", "json", "--workspace", str(swept.root))
    report = json.loads(sweep(*given).stdout)

    async def script() -> None:
        async with opened(swept, "fit", size=(160, 60)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, FitScreen)
            screen.change(Question("micro", ("12GiB",)))
            await until(pilot, lambda: answered(screen) and screen.question.gpus == ("12GiB",))
            await until(pilot, lambda: screen.report.devices[0].simulated)  # type: ignore[union-attr]
            words = shown(app)
            assert "12GiB (12.0 GiB simulated)" in words
            largest = sorted(report["rows"], key=lambda row: -row["file_bytes"])[:8]
            for row in largest:
                line = next(line for line in words.splitlines() if f" {row['variant']} " in line)
                for name in ("file_bytes", "weights_bytes", "kv_bytes", "compute_bytes"):
                    assert fmt.size(row[name]) in line
                assert "✓ fits" in line
            reason = " ".join(words.split())
            assert f"► {report['advice']['reason'][:40]}" in reason
            row = next(row for row in report["rows"] if row["variant"] == screen.query_one(Table).highlighted)
            memory = screen.query_one(TextPane).text.plain
            assert row["figures"]["kv"]["formula"] in memory
            assert row["arguments"] in memory

    play(script())


def test_every_key(swept: Workspace, tmp_path: Path) -> None:
    async def script() -> None:
        async with opened(swept, "fit", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, FitScreen)
            await until(pilot, lambda: answered(screen))
            table = screen.query_one(Table)
            assert "micro on CPU" in shown(app)
            assert "free now" in shown(app)

            await pilot.press("v", *"rtx 3060 12", "enter")
            await until(pilot, lambda: answered(screen) and screen.report.devices[0].simulated)  # type: ignore[union-attr]
            assert "RTX 3060 12GB" in shown(app)
            assert "simulated" in shown(app)
            assert app.session.limit is not None
            assert "assumed to be available" in shown(app)  # RAM that --gpu did not name

            await pilot.press("left_square_bracket", "K", "M")
            await until(pilot, lambda: answered(screen) and screen.report.kv_type == "q8_0")  # type: ignore[union-attr]
            assert screen.report is not None
            assert screen.report.context == 1024
            assert "no RAM" in shown(app)
            await pilot.press("right_square_bracket")  # more than the context that the model supports
            await until(pilot, lambda: "trained for 1,024 tokens" in " ".join(shown(app).split()))
            assert screen.question.context == 1024
            await pilot.press("M", "r")
            await until(pilot, lambda: answered(screen))

            table.go_to("Q4_0")
            await pilot.press("space")
            assert "Q4_0" in app.session.draft.variants
            await pilot.press("space")
            assert "Q4_0" not in app.session.draft.variants
            await pilot.press("t")
            assert isinstance(app.screen, PagerScreen)
            await until(pilot, lambda: "tensors" in shown(app))
            await pilot.press("escape", "slash", *"iq4", "enter")
            assert table.keys == ["IQ4_NL", "IQ4_XS"]
            await pilot.press("escape", "f")
            assert table.row_count > 30  # all variants of such a small model fit
            assert "those that fit whole" in shown(app)
            await pilot.press("f", "j", "k", "G", "g")

            await pilot.press("m", *"micro-moe", "enter")
            if screen.report is None:  # while it is computing, the figures of the other model are not shown
                assert "fits" not in shown(app)
            await until(pilot, lambda: answered(screen) and screen.report.model == "micro-moe")  # type: ignore[union-attr]
            assert "recurrent state" in shown(app)
            assert app.session.draft.model == "micro-moe"
            await pilot.press("m", *"no/such/model", "enter")
            await until(pilot, lambda: "✗" in shown(app) and not screen._busy)

    play(script())


def test_a_row_that_does_not_count_its_draft_says_so_and_a_counted_draft_has_its_part() -> None:
    devices = parse_devices(["RTX 4090"])
    drafted = FitFigure(300 * MIB, "llama.cpp no_alloc load", "the draft mtp")
    plain = row("Q4_K_M", 4.0, 4.9, devices, mtp_bytes=200 * MIB)
    counted = row("Q5_K_M", 5.0, 5.7, devices)
    counted = replace(counted, figures={**counted.figures, "draft": drafted})
    rows = report([plain, counted, row("Q6_K", 6.0, 6.5, devices)], devices)
    _, cells = fit_rows(FitAnswer(rows, None, ""), rows.rows, (), 80, NO_COLOURS)
    verdicts = {name: words[2].plain for name, words in cells}
    assert verdicts == {"Q4_K_M": "✓ fits*", "Q5_K_M": "✓ fits", "Q6_K": "✓ fits"}
    bars = [memory_bars(one, rows, 100, NO_COLOURS).plain for one in rows.rows]
    assert "* without speculative decoding: the weights for multi-token prediction (200 MiB)" in bars[0]
    assert "--draft mtp" not in bars[1] + bars[2]
    assert "▄ draft" in bars[1]


def test_the_longest_context_with_ram_is_a_column_beside_that_without() -> None:
    devices = parse_devices(["12GiB"])
    fits = row("Q4_K_M", 4.0, 4.9, devices, max_context_with_ram=40960)
    partly = row("Q8_0", 12.0, 8.5, devices, fits=False, partial=True, max_context=None, max_context_with_ram=39424)
    answer = FitAnswer(report([fits, partly], devices), "Q4_K_M", "")
    heads, cells = fit_rows(answer, answer.report.rows, (), 200, NO_COLOURS)
    at = [name for name, _ in heads].index("with RAM")
    assert heads[at - 1][0] == "max ctx"
    texts = {name: [cell.plain for cell in line[at - 1 : at + 1]] for name, line in cells}
    assert texts == {"Q4_K_M": ["16,384", "40,960"], "Q8_0": [fmt.MISSING, "39,424"]}
