"""The start of a sweep on the Plan screen, and the messages in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from driving import PATIENCE, opened, play, shown, until
from plan_screens import is_planned
from textual.widgets import Static

import presets
from converters.export import export, open_source
from sweep import format as fmt
from sweep.commands.launch import Command
from sweep.workspace import Workspace
from tui.screens.plan import PlanScreen
from tui.screens.run import RunScreen
from tui.screens.start import StartScreen
from tui.state.session import Session
from tui.widgets.form import OptionForm
from tui.widgets.job_table import JobTable
from tui.widgets.table import Table


def side(app: Any) -> str:
    """What the form and the summary say, as one line."""
    return " ".join(" ".join(line.rpartition("│")[2].split()) for line in shown(app).splitlines())


def test_a_sweep_starts_after_one_question_and_only_if_it_can_run(
    swept: Workspace, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Command] = []
    monkeypatch.setattr(Session, "start_sweep", lambda _, command: started.append(command))

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            fields = {"tasks": "micro_form", "limit": "4", "perplexity": str(text), "window": "256"}
            await pilot.press("R")  # not planned yet
            assert app.screen is screen
            for model, variants, typed, reason in (
                ("Qwen3-8B", ("Q4_K_M",), fields, "only the sizes of this model are known"),
                ("micro", ("Q4_K_M", "IQ1_S"), fields, "IQ1_S needs an importance matrix"),
                ("micro", ("Q4_K_M",), {"tasks": "micro_from"}, "did you mean micro_form"),
            ):
                screen.change(model=model, variants=variants, typed=typed)
                await pilot.press("R")
                await until(pilot, lambda reason=reason: reason in side(app))
                await pilot.press("R")
                assert app.screen is screen
            screen.change(model="micro", variants=("Q4_K_M", "Q2_K"), typed=fields)
            await until(pilot, lambda: is_planned(screen))
            plan = screen.plan
            assert plan is not None
            await pilot.press("R")
            words = shown(app)
            assert isinstance(app.screen, StartScreen)
            assert plan["run"] in words
            assert f"about {fmt.duration(plan['seconds'])}" in words  # as the first run took
            assert f"{fmt.size(plan['bytes_to_make'])} of files to make" in words
            await pilot.press("escape")
            assert app.screen is screen
            assert started == []
            await pilot.press("R", "enter")
            assert isinstance(app.screen, RunScreen)
            assert [command.arguments for command in started] == [screen.draft.arguments()]

    play(script())


def test_run_pressed_while_planning_asks_when_the_plan_is_ready(swept: Workspace, text: Path) -> None:
    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            fields = {"tasks": "micro_form", "limit": "4", "perplexity": str(text), "window": "256"}
            screen.change(model="micro", variants=("Q4_K_M",), typed=fields)
            await pilot.press("R")
            assert app.screen is screen
            assert "The plan is being made" in shown(app)
            await until(pilot, lambda: isinstance(app.screen, StartScreen))
            assert is_planned(screen)
            await pilot.press("escape")
            # What is done in between takes the wish back: another draft, another screen, the fields.
            for keys in ("space", "1", "e"):
                screen.change(variants=("Q4_K_M", "Q2_K"))
                await pilot.press("R", keys)
                await until(pilot, lambda: is_planned(screen))
                await pilot.press("2" if keys == "1" else "escape")
                assert app.screen is screen

    play(script())


def test_invalid_input_gives_the_message_of_the_command_line(swept: Workspace, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{ not json")

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: is_planned(screen))
            for model, typed, words in (
                (str(tmp_path / "broken"), {}, "config.json"),
                ("micro", {"limit": "many"}, "many"),
                ("micro", {"perplexity": "/no/such.txt"}, "no such text"),
                ("micro", {"gpu": "RTX 9999"}, "no such GPU"),
                ("micro", {"tasks": "micro_from"}, "did you mean micro_form"),
            ):
                screen.change(model=model, typed=typed)
                await until(pilot, lambda words=words: "✗" in side(app) and words in side(app))
            screen.change(model="micro", typed={})
            await until(pilot, lambda: is_planned(screen) and "✗" not in shown(app))

    play(script())


def test_a_model_that_cannot_become_int8_gives_a_message(swept: Workspace, tmp_path: Path) -> None:
    micro = presets.builtin_models()["micro"]
    file = tmp_path / "own.gguf"
    export(open_source(micro.directory, "micro"), {"BF16": file})
    done = tmp_path / "done"
    done.mkdir()
    config = json.loads((micro.directory / "config.json").read_text())
    (done / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            for model, words in ((file, "made from a Hugging Face checkpoint"), (done, "gptq")):
                screen.change(model=str(model), variants=("Q4_K_M", "int8:sq"))
                await until(pilot, lambda words=words: words in str(screen.query_one("#estimate", Static).render()))
            screen.change(model=str(file), variants=("Q4_K_M",))
            assert "int8:sq" not in screen.query_one(Table).keys
            await until(pilot, lambda: is_planned(screen) and "✗" not in shown(app))

    play(script())


def test_nothing_essential_is_cut_in_a_small_terminal(swept: Workspace) -> None:
    async def script() -> None:
        async with opened(swept, "plan", size=(80, 24)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: is_planned(screen))
            for width, height in ((80, 24), (60, 20)):
                await pilot.resize_terminal(width, height)
                words = shown(app)
                for part in ("micro", "8 variants", "jobs to do", " time ", "files to make", "$ sweep run micro"):
                    assert part in words, (width, part)
                for part in ("space Choose", "e Fields", "R Run", "? Help"):
                    assert part in words.splitlines()[-1], (width, part)
                assert screen.query_one(Table).region.height >= 8
                row = next(line for line in words.splitlines() if " BF16 " in line)
                assert row.count("MiB") == 2  # file and memory
                assert row.split()[-1].isdigit()  # jobs
                await pilot.press("R")
                assert isinstance(app.screen, StartScreen)
                assert "files to make" in shown(app)
                assert "enter start" in shown(app)
                await pilot.press("escape", "e", "down")
                assert screen.query_one(OptionForm).region.height >= 6  # room for fields, not for one alone
                await pilot.press("escape")

    play(script())


@pytest.mark.slow  # torch is loaded four times
def test_a_sweep_with_int8_runs_and_shows_its_results(text: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "calibration.txt"
    calibration.write_text(presets.builtin_models()["micro"].calibration.read_text()[:20_000])
    fast = {"tasks": "micro_form", "limit": "4", "perplexity": str(text), "calibration": str(calibration)}

    async def script() -> None:
        async with opened(Workspace(tmp_path / "own"), "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            screen.change(screen.draft.with_typed(**fast), variants=("int8:sq", "fq:sq", "Q4_K_M"))
            await until(pilot, lambda: is_planned(screen))
            await pilot.press("R", "enter")
            await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.snapshot is not None)
            run = app.screen
            assert isinstance(run, RunScreen)
            await until(pilot, lambda: run.snapshot.progress.status == "done", 5 * PATIENCE)  # type: ignore[union-attr]
            assert run.snapshot is not None
            assert {cell.status for cell in run.snapshot.progress.cells.values()} == {"done"}
            head, *rows = [
                line for line in shown(app).splitlines() if line.startswith((" variant", " int8:sq ", " fq:sq "))
            ]
            assert head.split()[:5] == ["variant", "export", "quantize", "speed", "text"]
            assert "MiB" in rows[0]  # the checkpoint's size
            assert "= int8:sq" in rows[1]  # fq:sq reads the same
            assert all("KLD" in row for row in rows)
            run.query_one(JobTable).go_to_cell("int8:sq/quantize")
            await until(pilot, lambda: "int8:sq/quantize  done" in shown(app))
            await pilot.press("4")
            await until(pilot, lambda: "torch:BF16" in shown(app) and "fq:sq" in shown(app))
            await pilot.press("2")
            await until(pilot, lambda: is_planned(screen) and "all jobs are done" in shown(app))

    play(script())
