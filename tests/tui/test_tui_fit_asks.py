"""The Fit screen with answers that are made here: what it asks, in which order it shows rows, what it remembers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driving import Driver, opened, play, settled, shown, until
from textual.widgets import Input

from converters.errors import InputError
from sweep.workspace import Workspace
from tui.app import SweepApp
from tui.screens import fit, plan
from tui.screens.fit import FitScreen
from tui.screens.fit_settings import FitSettingsScreen
from tui.screens.picker import PickerScreen
from tui.theme import LIGHT
from tui.widgets.filter import Filter
from tui.widgets.table import Table

STORED = json.loads((Path(__file__).parent / "pictures/fit.json").read_text())
PLANNED = json.loads((Path(__file__).parent / "pictures/plan.json").read_text())
TRAINED = {"micro": 1024, "Qwen3-8B": 40960}  # tokens; other models: 262144


class Fits:
    """Replaces `run_command`: answers as `sweep fit` does, from a stored answer."""

    def __init__(self, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self.commands: list[tuple[str, ...]] = []
        self._change = change

    def __call__(self, arguments: tuple[str, ...], **_: Any) -> list[dict[str, Any]]:
        self.commands.append(arguments)
        model, most = arguments[1], TRAINED.get(arguments[1], 262144)
        context = int(arguments[arguments.index("--ctx") + 1]) if "--ctx" in arguments else min(8192, most)
        if context > most:
            raise InputError(f"{model}: the model's context is {most} tokens; {context} is too long")
        answer = copy.deepcopy(STORED)
        answer |= {"model": model, "context": context, "trained_context": most}
        self._change(answer)
        return [answer]


async def choose(pilot: Driver, key: str, text: str) -> None:
    """Open a window with a key, type a text there and accept it."""
    await pilot.press(key)
    pilot.app.screen.query_one(Input).value = text
    await settled(pilot)
    await pilot.press("enter")


async def ready(pilot: Driver, screen: FitScreen) -> None:
    await until(pilot, lambda: screen.answer is not None and not screen._busy and screen._timer is None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "WAIT", 0.01)
    monkeypatch.setattr(plan, "planned", lambda *_: PLANNED)


def fit_screen(app: SweepApp) -> FitScreen:
    assert isinstance(app.screen, FitScreen)
    return app.screen


def words(app: SweepApp) -> str:
    return " ".join(shown(app).split())


def test_the_context_stays_when_the_model_changes_and_pickers_do_not_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = Fits()
    monkeypatch.setattr(fit, "run_command", fits)

    async def script() -> None:
        async with opened(Workspace(tmp_path), "fit", size=(120, 36)) as (app, pilot):
            screen = fit_screen(app)
            await choose(pilot, "m", "qwen3-8b")
            await ready(pilot, screen)
            await pilot.press("right_square_bracket")
            await ready(pilot, screen)
            assert "context 16,384" in words(app)
            await choose(pilot, "m", "qwen3.6-27b")
            await ready(pilot, screen)
            assert fits.commands[-1][1] == "Qwen3.6-27B"
            assert "context 16,384" in words(app)
            await choose(pilot, "m", "micro")  # which allows 1,024 tokens
            await ready(pilot, screen)
            assert "! 1,024 tokens are the maximum of micro; you chose 16,384" in words(app)
            assert app.session.draft.typed_value("ctx") == "1024"
            await choose(pilot, "m", "qwen3-8b")
            await ready(pilot, screen)
            assert "context 16,384" in words(app)
            assert "maximum" not in words(app)

            (tmp_path / "models/own-model").mkdir(parents=True)
            (tmp_path / "models/own-model/config.json").write_text("{}")
            await pilot.press("m")
            app.screen.query_one(Input).value = f"{tmp_path}/mod"
            await pilot.press("tab")  # to the directory, then to the only model in it
            assert app.screen.query_one(Input).value == f"{tmp_path}/models/"
            await pilot.press("tab", "enter")
            await ready(pilot, screen)
            assert fits.commands[-1][1] == f"{tmp_path}/models/own-model"
            await pilot.press("m")
            assert app.screen.query_one(Table).keys[0] == f"{tmp_path}/models/own-model"  # the latest
            await pilot.press("escape")

            await choose(pilot, "v", "3060")  # four GPUs
            window = app.screen
            assert isinstance(window, PickerScreen)
            assert window.query_one(Table).has_focus
            assert "4 match “3060”" in words(app)
            await pilot.press("down", "enter")
            assert screen.question.gpus == ("RTX 3060 12GB",)
            await choose(pilot, "v", "24")
            assert isinstance(app.screen, PickerScreen)
            await pilot.press("escape")
            await choose(pilot, "v", "RTX 9999")  # nothing has this name: the text stays
            assert app.screen.query_one(Input).value == "RTX 9999"
            assert "no such GPU is known" in words(app)
            await pilot.press("escape")
            await choose(pilot, "v", "2x48GB")
            await ready(pilot, screen)
            assert screen.question.gpus == ("2x48GB",)
            assert app.session.limit is not None
            assert app.session.limit.bytes > 2 * (45 << 30)  # of 48 GiB each

    play(script())


def test_rows_are_sorted_filtered_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(answer: dict[str, Any]) -> None:
        for place, row in enumerate(answer["rows"]):
            row["fits"], row["verdict"] = row["variant"] == "Q2_K", ("fits" if row["variant"] == "Q2_K" else "partly")
            row["expected_kld"] = {"value": 0.5 - 0.1 * place, "low": 0.0, "high": 1.0, "source": "prior"}
        answer["rows"][1] |= {"verdict": "misses", "expected_kld": None}
        answer["rows"].reverse()

    monkeypatch.setattr(fit, "run_command", Fits(change))

    async def script() -> None:
        async with opened(Workspace(tmp_path), "fit", size=(120, 36)) as (app, pilot):
            screen = fit_screen(app)
            await ready(pilot, screen)
            table = screen.query_one(Table)
            largest_first = ["Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K_XL", "Q2_K"]
            assert table.keys == largest_first
            assert "size ↓" in shown(app)
            assert "~0.10" in shown(app)  # what is expected, not measured
            assert table.highlighted == "Q4_K_M"  # the variant to run
            assert table.heads[4] == "KLD"
            assert "33.8" in shown(app)  # tokens per second
            await pilot.press("S")
            assert table.keys == largest_first[::-1]
            for _ in range(20):
                if any(head.startswith("KLD ") for head in table.heads):
                    break
                await pilot.press("s")
            assert table.keys == ["Q2_K", "Q2_K_XL", "Q3_K_M", "Q4_K_M", "IQ4_XS"]  # the last one is not known
            column = next(x for x in range(100) if table._column_at(x) == table.heads.index("bpw"))
            await pilot.click(Table, offset=(column + 1, 0))
            assert table.keys == largest_first[::-1]

            await pilot.press("f")
            assert table.row_count == 4
            assert "4 of 5 variants: those that fit or run partly in RAM" in words(app)
            await pilot.press("f")
            assert table.keys == ["Q2_K"]
            await pilot.press("b")  # the variant to run, which is hidden
            assert table.highlighted == "Q4_K_M"
            assert table.row_count == 5

            await pilot.press("slash")
            screen.query_one(Filter).value = "q2_k"
            await settled(pilot)
            assert table.keys == ["Q2_K", "Q2_K_XL"]
            await pilot.press("y")
            assert "no name contains “q2_ky”; esc shows all" in words(app)
            await pilot.press("y")
            assert "no name contains “q2_kyy”" in words(app)
            await pilot.press("escape")
            assert table.row_count == 5
            await pilot.press("2", "slash", *"q2_k")  # the same on Plan
            assert app.screen.query_one(Table).keys[:2] == ["Q2_K", "Q2_K_XL"]
            await pilot.press("y")
            assert "no name contains “q2_ky”" in words(app)
            assert app.screen.query_one(Filter).value == "q2_ky"

    play(script())


def test_settings_are_asked_carried_to_plan_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits()
    monkeypatch.setattr(fit, "run_command", fits)
    state = tmp_path / "state/screen.json"

    async def first() -> None:
        async with opened(Workspace(tmp_path), "fit", size=(120, 36)) as (app, pilot):
            screen = fit_screen(app)
            await choose(pilot, "m", "qwen3-8b")
            await choose(pilot, "v", "rtx 4090")
            await pilot.press("e", *"2,0", "down", *"q9", "enter")
            window = app.screen
            assert isinstance(window, FitSettingsScreen)
            assert "✗ KV type q9" in words(app)
            assert window.query_one("#setting-ctx", Input).value == "2,0"  # what was typed is still there
            for name, text in (("ctx", "20,000"), ("kv_type", "q8_0"), ("ram", "64GB"), ("parallel", "4")):
                window.query_one(f"#setting-{name}", Input).value = text
            await pilot.press("down", "space", "enter")
            await ready(pilot, screen)
            given = ("--ctx", "20000", "--kv-type", "q8_0", "--no-offload", "--ram", "64GB", "--parallel", "4")
            assert fits.commands[-1][6:] == (*given, "--gpu", "RTX 4090")
            assert "context 20,000 KV q8_0 no RAM sequences 4" in words(app)
            await pilot.press("M")
            await ready(pilot, screen)
            assert "--no-offload" not in fits.commands[-1]
            assert "context 20,000 KV q8_0 64GB RAM sequences 4" in words(app)

            await pilot.press("2")
            assert (app.session.draft.model, app.session.draft.typed_value("ctx")) == ("Qwen3-8B", "20000")
            assert app.screen.query_one("#field-gpu", Input).value == "RTX 4090, 64GB RAM"
            await choose(pilot, "m", "qwen3.6-35b-a3b")
            await pilot.press("1")  # what is changed on Plan is asked on Fit
            await ready(pilot, screen)
            assert fits.commands[-1][1] == "Qwen3.6-35B-A3B"
            assert fits.commands[-1][-2:] == ("--gpu", "RTX 4090")
            app.theme = LIGHT.name

            for width, height in ((80, 24), (60, 20)):
                await pilot.resize_terminal(width, height)
                assert screen.query_one("#state").size.height == 1
                for part in ("Qwen3.6-35B-A3B on RTX 3060 12GB", "20,000", "q8_0", "64GB RAM", "◐ 10.8 GiB in RAM"):
                    assert part in words(app)
                await pilot.press("e", *["down"] * 14)
                last = app.screen.query_one("#setting-min_recovery")
                assert last.has_focus
                await until(pilot, lambda last=last, height=height: 0 < last.region.y < height - 1)
                await pilot.press("escape")

    async def second() -> None:
        fits.commands.clear()
        async with opened(Workspace(tmp_path), "fit", size=(120, 36)) as (app, pilot):
            await ready(pilot, fit_screen(app))
            assert app.theme == LIGHT.name
            assert fits.commands[0][1] == "Qwen3.6-35B-A3B"
            assert fits.commands[0][-2:] == ("--gpu", "RTX 4090")
            await pilot.press("m")
            assert app.screen.query_one(Table).keys[:3] == ["Qwen3.6-35B-A3B", "Qwen3-8B", "micro"]

    async def damaged() -> None:
        fits.commands.clear()
        state.write_text('{"theme": ')
        async with opened(Workspace(tmp_path), "fit", size=(120, 36)) as (app, pilot):
            await ready(pilot, fit_screen(app))
            assert "cannot be read" in words(app)
            assert fits.commands[0][1] == "micro"

    play(first())
    play(second())
    play(damaged())
