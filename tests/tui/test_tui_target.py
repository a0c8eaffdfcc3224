"""The target on the screens: it is set on Plan, goes to the command and to Fit, and comes back with the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from driving import Driver, opened, play, settled, shown, stored_answer, until
from fixed_run import fixed_run
from textual.widgets import Input

from sweep.results.store import Store
from sweep.run_question import RunQuestion
from sweep.target import Constraint, Target
from sweep.workspace import Workspace
from tui.screens import plan as plan_screen
from tui.screens.plan import PlanScreen
from tui.screens.results import ResultsScreen
from tui.state.question import FIT_FIELDS, TARGET_FIELDS


async def type_in(pilot: Driver, name: str, text: str) -> None:
    pilot.app.screen.query_one(f"#setting-{name}", Input).value = text
    await settled(pilot)


def test_the_fields_of_the_target_are_its_bounds() -> None:
    options = {one.name: one.option for one in FIT_FIELDS if one.name in TARGET_FIELDS}
    assert options == {bound.value: bound.option for bound in Constraint}


def test_a_target_that_is_set_on_plan_is_in_the_command_and_on_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan_screen, "planned", lambda *_: stored_answer("plan"))

    async def script() -> None:
        async with opened(Workspace(tmp_path), "plan", size=(160, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await pilot.press("T")
            await type_in(pilot, "min_tps", "fast")
            await pilot.press("enter")
            assert "--min-tps 'fast' is not a positive number" in shown(app)
            await type_in(pilot, "min_tps", "30")
            await type_in(pilot, "min_recovery", "95")
            await pilot.press("enter")
            assert app.screen is screen
            assert "--min-tps 30 --min-recovery 95" in shown(app)
            app.session.take_plan()  # as Fit does when it is shown
            assert {name: app.session.question.value(name) for name in TARGET_FIELDS} == {
                "min_tps": "30", "max_kld": "", "min_recovery": "95",
            }  # fmt: skip
            await pilot.press("T")
            assert app.screen.query_one("#setting-min_tps", Input).value == "30"
            await type_in(pilot, "min_tps", "")
            await pilot.press("enter")
            assert "--min-tps" not in shown(app)

    play(script())


def test_results_keep_to_the_target_of_the_run_until_another_is_chosen(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "w")
    plan = replace(fixed_run(space), question=RunQuestion(target=Target(max_kld=1e-9)))
    with Store(space.database) as store:
        store.add_run(plan.run, json.loads(json.dumps(plan.to_json())))

    async def script() -> None:
        async with opened(space, "results", plan.run, (160, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            assert "The advice is for --max-kld 1e-09, which `sweep run` was given." in " ".join(shown(app).split())
            assert screen.results is not None
            assert screen.results.choice is not None
            assert screen.results.choice.variant == "BF16"
            await pilot.press("e")
            assert app.screen.query_one("#setting-max_kld", Input).value == "1e-09"
            await type_in(pilot, "max_kld", "")
            await pilot.press("enter")
            await until(pilot, lambda: screen.results is not None and not screen.results.asked)
            assert screen.results.question.target == Target()

    play(script())
