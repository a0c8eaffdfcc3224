"""The plan screen: what is chosen, what that comes to, and the command that does it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from driving import opened, play, shown, sweep, until
from textual.widgets import Input

from sweep.planning import preset
from sweep.workspace import Workspace
from tui.planning import Draft
from tui.screens.plan import PlanScreen
from tui.widgets.table import Table


def asked(screen: PlanScreen) -> bool:
    """Whether what is shown is of the draft as it is."""
    return screen.plan is not None and not screen._busy and screen._timer is None


def test_the_line_is_the_shortest_that_comes_to_the_same() -> None:
    whole = preset.load("q2-q8").variants
    assert Draft(variants=whole).arguments() == ("run", "micro")
    assert Draft(variants=("Q4_K_M", "BF16")).arguments() == ("run", "micro", "--variants", "=Q4_K_M")
    assert Draft(variants=("BF16",)).arguments()[-1] == "=BF16"
    some = Draft(model="a b", preset="q4", variants=preset.load("q4").variants, tasks="none", limit=" 5 ")
    assert shlex.join(some.arguments()) == "run 'a b' --preset q4 --tasks none --limit 5"


def test_what_is_shown_is_the_dry_run(swept: Workspace, text: Path) -> None:
    given = ("--variants", "=Q4_K_M,Q2_K", "--tasks", "micro_form", "--limit", "8", "--perplexity", str(text))
    told = sweep("run", "micro", *given, "--workspace", str(swept.root), "--format", "json", "--dry-run")
    plan = json.loads(told.stdout)

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: asked(screen))
            fields = {"tasks": "micro_form", "limit": "8", "text": str(text)}
            screen.change(variants=("BF16", "Q4_K_M", "Q2_K"), **fields)
            await until(pilot, lambda: asked(screen))
            assert screen.plan == plan
            words = shown(app)
            assert f"{sum(not cell['done'] for cell in plan['cells'])} of {len(plan['cells'])} cells to do" in words
            assert "about" in words  # the items of the first run, twice as many
            assert plan["seconds"] is not None

    play(script())


def test_every_key(swept: Workspace, tmp_path: Path) -> None:
    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: asked(screen))
            table = screen.query_one(Table)
            assert set(screen.draft.variants) == set(preset.load("q2-q8").variants)
            table.go_to("Q4_0")
            await pilot.press("space")
            assert "Q4_0" in screen.draft.variants
            assert "Q4_0" in shown(app).splitlines()[-2]  # the command line
            await pilot.press("space")
            assert "Q4_0" not in screen.draft.variants
            await pilot.press("n")
            assert screen.draft.variants == ()
            await pilot.press("r")
            assert app.screen is screen  # nothing to run
            await pilot.press("enter")
            assert screen.draft.variants == ("Q4_0",)

            await pilot.press("t", *"none")
            assert screen.draft.tasks == "none"
            assert "--tasks none" in shown(app)
            await pilot.press("escape")
            assert table.has_focus

            await pilot.press("w")
            app.screen.query_one(Input).value = str(tmp_path / "mine.toml")
            await pilot.press("enter")
            saved = preset.load(str(tmp_path / "mine.toml"))
            assert (saved.variants, saved.tasks) == (("BF16", "Q4_0"), ("none",))

            await pilot.press("o", *"q4", "enter")
            assert screen.draft.preset == "q4"
            assert set(screen.draft.variants) == set(preset.load("q4").variants)
            assert "sweep run micro --preset q4" in shown(app)
            await pilot.press("o")
            app.screen.query_one(Input).value = str(tmp_path / "mine.toml")
            await pilot.press("enter")
            assert screen.draft.variants == saved.variants
            assert screen.query_one("#tasks", Input).value == "none"

            await pilot.press("m", *"micro-moe", "enter")
            assert screen.draft.model == "micro-moe"
            await pilot.press("y")
            assert app.clipboard == f"sweep run micro-moe --preset {tmp_path / 'mine.toml'}"

            await pilot.press("slash", *"iq4")
            assert table.keys == ["IQ4_NL", "IQ4_XS"]
            await pilot.press("enter")
            assert table.has_focus
            await pilot.press("escape")
            assert table.row_count > 30
            await until(pilot, lambda: asked(screen))

    play(script())


def test_bad_input_is_told_in_the_programs_own_words(swept: Workspace, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{ not json")

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: asked(screen))
            for fields, words in (
                ({"model": str(tmp_path / "broken")}, "config.json"),
                ({"model": "micro", "limit": "many"}, "many"),
                ({"limit": "", "text": "/no/such.txt"}, "no such text"),
            ):
                screen.change(**fields)
                await until(pilot, lambda words=words: "✗" in shown(app) and words in shown(app))
            screen.change(model="micro", text="")
            await until(pilot, lambda: asked(screen) and "✗" not in shown(app))

    play(script())
