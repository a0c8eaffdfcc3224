"""The Results screen with a real run: every key, the table, the plot, the windows."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from driving import Driver, opened, play, settled, shown, until
from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.widgets import Input, Static

from sweep.analysis import figures
from sweep.analysis.run_candidates import advise_on_records
from sweep.analysis.trust import trust_notes
from sweep.record import Speed, Stopping
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace
from tui.app import SweepApp
from tui.screens.compare import CompareScreen
from tui.screens.export import ExportScreen
from tui.screens.pager import PagerScreen
from tui.screens.picker import PickerScreen
from tui.screens.results import ResultsScreen
from tui.screens.runs import RunsScreen
from tui.state.results import read_results
from tui.theme import Palette
from tui.widgets.details import details
from tui.widgets.plot import Plot
from tui.widgets.results_table import Sorting, table_rows
from tui.widgets.table import Table, view
from tui.widgets.text_pane import TextPane


def order(screen: ResultsScreen) -> list[str]:
    return screen.query_one(Table).keys


def test_the_screen_shows_the_figures_of_the_run(swept: Workspace, run: str) -> None:
    plan = read_results(swept, run).plan
    with Store(swept.database) as store:
        known = records(plan, store)
    choice = advise_on_records(known)

    async def script() -> None:
        async with opened(swept, "results", run, (160, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            words = shown(app)
            for record in known:
                assert record.variant in words
                assert f"{record.bits_per_weight:.2f}" in words
                assert record.perplexity is not None
                assert f"{record.perplexity.value:.4f} ±{record.perplexity.stderr:.4f}" in words
            assert choice.reason[:60] in words
            assert order(screen) == [row.variant for row in figures.by_size(known)]

    play(script())


def test_every_key(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run, (160, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            table, plot = screen.query_one(Table), screen.query_one(Plot)
            assert screen.results is not None
            assert screen.results.choice is not None
            assert table.highlighted == (screen.results.choice.variant or order(screen)[0])

            await pilot.press("g")
            first = order(screen)
            assert table.highlighted == first[0] == "Q2_K"
            await pilot.press("j", "k", "j")
            assert table.highlighted == first[1]
            await pilot.press("G")
            assert table.highlighted == first[-1] == "BF16"
            await until(pilot, lambda: "BF16" in screen.query_one(TextPane).text.plain)

            await pilot.press("S")
            assert order(screen) == first[::-1]
            assert table.highlighted == "BF16"
            heads = []
            for _ in range(4):
                await pilot.press("s")
                heads.append(screen.sorting.head)
            assert heads == ["size", "memory", "KLD", "PPL"]
            assert table._view().before == 0
            while screen.sorting.head != "prompt t/s":  # once around
                await pilot.press("s")
            assert "prompt t/s ↑" in shown(app)  # the table scrolled to it
            while screen.sorting.head != "KLD":
                await pilot.press("s")
            divergences = {row.variant: figures.kld(row) for row in screen.results.rows}
            known = [found.value for name in order(screen) if (found := divergences[name]) is not None]
            assert known == sorted(known)
            assert len(known) == 2

            before = shown(app)
            assert "Mean KL divergence against bits per weight" in before
            await pilot.press("X")
            assert "against file size" in shown(app)
            await pilot.press("X")
            assert "against memory" in shown(app)
            await pilot.press("Y")
            assert "Perplexity against memory" in shown(app)

            await pilot.press("g")
            await until(pilot, lambda: len(plot.places) == 3)
            x, y = plot.places["Q2_K"]
            await pilot.click(Plot, offset=(x, y))
            assert table.highlighted == "Q2_K"

            await pilot.press("c")
            assert not isinstance(app.screen, CompareScreen)  # nothing is marked
            await pilot.press("space")
            table.go_to("Q4_K_M")
            await pilot.press("space")
            assert screen.marked == ["Q2_K", "Q4_K_M"]
            await pilot.press("c")
            assert isinstance(app.screen, CompareScreen)
            await until(pilot, lambda: "baseline BF16" in shown(app))  # the screen below has other words of it
            assert "…" not in shown(app)  # it is rendered for the width of its window
            await pilot.press("j", "k", "G", "g", "escape")
            assert app.screen is screen
            await pilot.press("space")
            assert screen.marked == ["Q2_K"]
            await pilot.press("escape")
            assert screen.marked == []

            await pilot.press("enter")
            assert isinstance(app.screen, PagerScreen)
            assert screen.results.choice.reason in str(app.screen.query_one("#text", Static).content)  # type: ignore[union-attr]
            await pilot.press("q")
            assert app.screen is screen

            await pilot.press("slash", *"q2")
            assert order(screen) == ["Q2_K"]
            await pilot.press("enter")
            assert table.has_focus
            await pilot.press("escape")
            assert len(order(screen)) == 3
            await pilot.press("r")
            await until(pilot, lambda: screen.results is not None)

    play(script())


def test_a_click_on_a_head_sorts_the_table(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run, (160, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            line = next(line for line in shown(app).splitlines() if "bpw" in line)
            await pilot.click(Table, offset=(line.index("bpw") + 1, 0))
            assert (screen.sorting.head, screen.sorting.down) == ("bpw", True)

    play(script())


def test_no_variant_that_exceeds_the_gpu_is_recommended(swept: Workspace, run: str) -> None:
    """With a GPU that has no usable memory, no variant is recommended."""

    async def script() -> None:
        async with opened(swept, "results", run, (160, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            await pilot.press("v")
            assert isinstance(app.screen, PickerScreen)
            await pilot.press(*"1536MiB", "enter")
            await until(pilot, lambda: screen.results is not None and screen.results.limit is not None)
            assert screen.results is not None
            assert screen.results.limit is not None
            assert screen.results.limit.bytes == 0  # 1536 MiB less the reserve
            assert screen.results.choice is not None
            assert screen.results.choice.variant is None
            await pilot.press("v", *"no such gpu", "enter")
            await until(pilot, lambda: "no such GPU" in shown(app))
            assert app.screen.query_one(Input).value == "no such gpu"  # to be corrected
            await pilot.press("escape", "v", *"this machine", "enter")
            await until(pilot, lambda: screen.results is not None and screen.results.limit is None)

    play(script())


def test_results_are_exported_in_each_format(swept: Workspace, run: str, tmp_path: Path) -> None:
    async def script() -> None:
        async with opened(swept, "results", run) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            for name in ("a.html", "a.csv", "a.jsonl"):
                await pilot.press("w")
                app.screen.query_one("#path", Input).value = str(tmp_path / name)
                await pilot.press("enter")
                await until(pilot, lambda: app.screen is screen)
            await pilot.press("w")
            app.screen.query_one("#path", Input).value = str(tmp_path / "a.docx")
            await pilot.press("enter")
            assert "use one of the extensions" in shown(app)
            app.screen.query_one("#path", Input).value = str(tmp_path / "missing" / "a.csv")
            await pilot.press("enter")
            message = app.screen.query_one("#message", Static)  # the path may break its line anywhere
            await until(pilot, lambda: "cannot be written" in str(message.content))
            assert isinstance(app.screen, ExportScreen)
            (tmp_path / "theirs.csv").write_text("theirs")
            app.screen.query_one("#path", Input).value = str(tmp_path / "theirs.csv")
            await pilot.press("enter")
            await until(pilot, lambda: "press enter again to replace it" in str(message.content))
            assert (tmp_path / "theirs.csv").read_text() == "theirs"
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is screen)
            assert (tmp_path / "theirs.csv").read_text() == (tmp_path / "a.csv").read_text()
            await pilot.press("w")
            app.screen.query_one("#path", Input).value = str(tmp_path / "a.csv")  # the same content
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is screen)

    play(script())
    assert "<html" in (tmp_path / "a.html").read_text()
    with open(tmp_path / "a.csv") as file:
        assert {row["variant"] for row in csv.DictReader(file)} == {"BF16", "Q4_K_M", "Q2_K"}
    assert len([json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]) == 3


def test_runs_can_be_searched(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            await pilot.press("o")
            assert isinstance(app.screen, RunsScreen)
            await until(pilot, lambda: run in shown(app))
            await pilot.press(*"nothing", "enter")
            assert "0 of 1 runs" in shown(app)
            assert isinstance(app.screen, RunsScreen)  # there is nothing to choose
            app.screen.query_one(Input).value = "q4_k_m micro"
            await settled(pilot)
            assert run in shown(app)
            await pilot.press("down")
            assert app.screen.query_one(Table).has_focus
            await pilot.press("slash")
            assert app.screen.query_one(Input).has_focus
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is screen)
            assert app.session.run_id == run

    play(script())


async def check_that_every_column_can_be_reached(app: SweepApp, pilot: Driver, table: Table) -> None:
    """The head line says how many columns are left out at either side, and the name of the row stays in sight."""
    seen: list[str] = []
    while True:
        line = next(line for line in shown(app).splitlines() if "variant" in line)
        heads = [head.removesuffix(" ↑") for head in table.heads[2:]]
        before, after = re.search(r"‹ (\d+)", line), re.search(r"(\d+) more ›", line)
        first, last = int(before[1]) if before else 0, len(heads) - (int(after[1]) if after else 0)
        assert all(head in line for head in heads[first:last])
        assert "Q4_K_M" in shown(app)
        seen += [head for head in heads[first:last] if head not in seen]
        if not after:
            break
        await pilot.press("l")
    assert seen == heads
    assert "decode t/s" in seen
    for _ in heads:
        await pilot.press("left")
    assert "‹" not in next(line for line in shown(app).splitlines() if "variant" in line)


def test_columns_can_be_hidden(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run, (120, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            table = screen.query_one(Table)
            before = table.heads
            assert "size" in before
            await pilot.press("C", "j", "space", "escape")
            assert [head for head in before if head not in table.heads] == ["size"]
            await pilot.press("s")
            assert screen.sorting.head == "memory"  # a hidden column is left out
            await pilot.press("C", "j", "space", "q")
            assert "size" in table.heads
            await pilot.press("C", "j", "space", "escape")
        async with opened(swept, "results", run, (120, 40)) as (app, pilot):  # the next session
            await until(pilot, lambda: "memory" in app.screen.query_one(Table).heads)
            assert "size" not in app.screen.query_one(Table).heads
            assert app.session.remembered.hidden == ("size",)

    play(script())


def test_the_tolerated_loss_is_asked_once_for_results_and_fit(swept: Workspace, run: str, tmp_path: Path) -> None:
    async def script() -> None:
        async with opened(swept, "results", run, (120, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            assert "2 are tolerated" in shown(app)
            await pilot.press("e", *"lots", "enter")
            assert "✗ --tolerance 'lots' is not a loss" in shown(app)
            await pilot.press("ctrl+u", *"31", "enter")
            await until(pilot, lambda: "31 are tolerated" in shown(app) or "31 would be tolerated" in shown(app))
            await pilot.press("w")
            path = tmp_path / "report.html"
            app.screen.query_one("#path", Input).value = str(path)
            await pilot.press("enter")
            await until(pilot, path.exists)
            assert re.search("31 (are|would be) tolerated", path.read_text())
            assert app.session.question.arguments("w")[-2:] == ("--tolerance", "31")
        async with opened(swept, "results", run, (120, 40)) as (app, pilot):  # the next session
            await until(pilot, lambda: "31 are tolerated" in shown(app) or "31 would be tolerated" in shown(app))

    play(script())


class _Wide(App[None]):
    """A table whose last column is wider than the window."""

    def compose(self) -> ComposeResult:
        yield Table(fixed=1)

    def on_mount(self) -> None:
        table = self.query_one(Table)
        heads = [("name", True), ("count", False), ("words", True)]
        words = " ".join(f"word{number:02}" for number in range(20))
        table.fill(heads, [("a", [Text("a"), Text("1"), Text(words)]), ("b", [Text("b"), Text("2"), Text("short")])])
        table.focus()


def test_a_column_that_is_wider_than_the_window_scrolls() -> None:
    async def script() -> None:
        app = _Wide()
        async with app.run_test(size=(40, 6)):
            pilot, table = Driver(app), app.query_one(Table)

            def line(y: int) -> str:
                return table.render_line(y).text

            seen, heads = set(), []
            await pilot.pause()
            for _ in range(12):
                seen |= set(re.findall(r"word\d\d", line(1)))
                heads.append(line(0).rstrip())
                await pilot.press("right")
            assert seen == {f"word{number:02}" for number in range(20)}
            assert heads[1].endswith(" more ›")  # the column goes on
            assert not heads[-1].endswith("›")
            assert line(1).rstrip().endswith("word19")
            await pilot.press(*["left"] * 14)
            assert "count" in line(0)
            await pilot.resize_terminal(4, 6)  # the first column alone does not fit
            await pilot.press(*["right"] * 3)
            await pilot.resize_terminal(200, 6)
            assert line(1).split()[:3] == ["a", "1", "word00"]

    play(script())


@pytest.mark.parametrize("width", range(0, 60, 7))
def test_only_whole_columns_are_shown_and_the_others_are_counted(width: int) -> None:
    widths = [3, 9, 8, 12, 5, 20]
    for first in range(2, 6):
        found = view(widths, 2, first, width)
        shown = [column for column in found.starts if column >= 2]
        assert shown == list(range(first, first + len(shown)))
        assert len(shown) + found.before + found.after == 4
        assert len(shown) >= 1
        if len(shown) > 1:
            last = shown[-1]
            assert found.starts[last] + widths[last] <= (found.after_at if found.after else width)


def test_below_100_columns_the_panes_stack(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run, (80, 24)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            table, plot = screen.query_one(Table), screen.query_one(Plot)
            assert plot.region.y >= table.region.bottom
            assert plot.region.width >= 78
            assert not screen.query_one("#details").region
            await check_that_every_column_can_be_reached(app, pilot, table)
            await pilot.resize_terminal(140, 40)
            side = screen.query_one("#details")
            assert side.region.x >= plot.region.right
            assert side.region.y == plot.region.y

    play(script())


def test_a_variant_with_implausible_figures_or_an_unstable_speed_has_a_sign_and_a_reason(
    swept: Workspace, run: str
) -> None:
    results = read_results(swept, run)
    speed = Speed(6000.0, 130.0, decode_low=97.0, decode_high=180.0, unstable=True, unstable_reasons=("it varies",))
    first = replace(results.rows[0], implausible=("its top token is another one",), speed=speed)
    rows = (first, *results.rows[1:])
    results = replace(results, rows=rows, notes=tuple(trust_notes(rows)))
    plain = Style()
    colours = Palette(plain, plain, plain, plain, plain, plain, plain)
    _, lines = table_rows(results, Sorting(), {}, lambda _: True, 200, colours)
    assert [cells[0].plain.startswith("?") for _, cells in lines] == [True, *[False] * (len(rows) - 1)]
    words = details(results, rows[0].variant, colours).plain
    assert "? implausible: its top token is another one" in words
    assert "~6,000\n" in words
    assert "~130 (97.0–180)" in words
    assert "~ unstable speed: it varies" in words
    assert "Likely causes: another tokenizer" in words
    part = replace(first, stopping={"text": Stopping(64, 1564, "under 0.02 nats")})
    words = details(replace(results, rows=(part,)), part.variant, colours).plain
    assert "measured    64 of 1,564 windows: under 0.02 nats\n" in words
