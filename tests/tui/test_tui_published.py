"""A repository of GGUF files on the Fit and Plan screens, on a hub on localhost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from driving import opened, play, shown, until
from hub_server import serve
from plan_screens import is_planned

from converters.export import export, open_source
from presets import builtin_models
from sweep.workspace import Workspace
from tui.screens.fit import FitScreen
from tui.screens.plan import PlanScreen
from tui.widgets.table import Table

pytestmark = pytest.mark.slow
REPOSITORY = "org/micro-GGUF"
QUANTS = "org/quants-GGUF"
"""It has no unquantized file, so nothing can be made from its files."""
FILES = ("hub:BF16", "hub:Q4_K_M", "hub:Q4_K_S", "hub:Q2_K")


@pytest.fixture
def workspace(asks_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace next to a hub with these repositories."""
    published = tmp_path / "micro-GGUF"
    published.mkdir()
    source = open_source(builtin_models()["micro"].directory, "micro")
    export(source, {name: published / f"micro-{name}.gguf" for name in (file.removeprefix("hub:") for file in FILES)})
    quants = tmp_path / "quants-GGUF"
    quants.mkdir()
    for name in ("Q4_K_M", "Q2_K"):
        (quants / f"micro-{name}.gguf").hardlink_to(published / f"micro-{name}.gguf")
    with serve({REPOSITORY: published, QUANTS: quants}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        (tmp_path / "w").mkdir()
        yield Workspace(tmp_path / "w")


def signs(screen: PlanScreen) -> dict[str, str]:
    """The sign of each offered variant."""
    table = screen.query_one(Table)
    return {key: str(cells[0]) for key, cells in zip(table.keys, table._rows, strict=True)}


def test_a_plan_offers_the_files_of_a_repository(workspace: Workspace, text: Path) -> None:
    async def script() -> None:
        async with opened(workspace, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            short = {"tasks": "none", "perplexity": str(text)}
            screen.change(model=REPOSITORY, typed=short)
            await until(pilot, lambda: is_planned(screen))
            ladder = ("hub:BF16", "hub:Q4_K_M", "hub:Q2_K")  # Q4_K_S is next to Q4_K_M
            assert screen.draft.variants == ladder
            assert signs(screen) == {name: "✓" if name in ladder else " " for name in FILES}
            assert "--variants" not in screen._line()
            await until(pilot, lambda: "4.7" in shown(app))  # bits per weight of Q4_K_S, which is not in the plan
            screen.query_one(Table).go_to("hub:Q2_K")
            await pilot.press("space")
            await until(pilot, lambda: is_planned(screen))
            assert "--variants =hub:BF16,hub:Q4_K_M " in screen._line().replace("'", "")
            assert [row["variant"] for row in screen.plan["variants"]] == ["hub:BF16", "hub:Q4_K_M"]  # type: ignore[index]
            await pilot.press("space")
            await until(pilot, lambda: is_planned(screen))
            assert "--variants" not in screen._line()
            screen.change(screen.draft.with_model("micro"))
            await until(pilot, lambda: is_planned(screen))
            assert "BF16" in signs(screen)
            assert not set(FILES) & set(signs(screen))

    play(script())


def test_preset_variants_that_were_changed_by_hand_give_way_to_those_of_the_repository(
    workspace: Workspace, text: Path
) -> None:
    async def script() -> None:
        async with opened(workspace, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            short = {"tasks": "none", "perplexity": str(text)}
            screen.change(model=QUANTS, variants=("IQ3_S",), typed=short)  # the repository has no such file
            await until(pilot, lambda: screen.draft.published and is_planned(screen))
            assert signs(screen) == {"hub:Q4_K_M": "✓", "hub:Q2_K": "✓"}
            screen.change(screen.draft.with_model(REPOSITORY), variants=("IQ3_S",))  # which is made from the BF16 file
            await until(pilot, lambda: screen.draft.published and is_planned(screen))
            assert signs(screen) == {"IQ3_S": "✓", **{name: "+" if name == "hub:BF16" else " " for name in FILES}}

    play(script())


def test_files_chosen_on_fit_are_planned(workspace: Workspace, text: Path) -> None:
    async def script() -> None:
        async with opened(workspace, "fit", size=(140, 44)) as (app, pilot):
            fit = app.screen
            assert isinstance(fit, FitScreen)
            fit.change(replace(fit.question, model=REPOSITORY))
            await until(pilot, lambda: fit.report is not None and fit.report.published == FILES and not fit._busy)
            fit.query_one(Table).go_to("hub:Q4_K_S")
            await pilot.press("space", "2")
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            screen.change(screen.draft.with_typed(tasks="none", perplexity=str(text)))
            await until(pilot, lambda: is_planned(screen))
            assert screen.draft.variants == ("hub:Q4_K_S",)
            assert signs(screen) == {"hub:BF16": "+", "hub:Q4_K_M": " ", "hub:Q4_K_S": "✓", "hub:Q2_K": " "}

    play(script())
