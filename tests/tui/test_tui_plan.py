"""The Plan screen: chosen variants, the plan for them, and the command."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from driving import opened, play, shown, sweep, until
from plan_screens import asked_by, is_planned
from rich.style import Style
from textual.widgets import Input

import presets
from converters.catalogue import sizes
from converters.errors import InputError
from converters.export import open_source
from sweep import format as fmt
from sweep.planning import preset
from sweep.planning.prepare import _variants
from sweep.workspace import Workspace
from tui.screens.plan import PlanScreen
from tui.state.draft import Draft, preset_fields
from tui.state.sizes import VariantSize
from tui.theme import Palette
from tui.widgets.note import Note
from tui.widgets.plan_table import Figures, plan_rows
from tui.widgets.table import Table


def test_the_command_is_the_shortest_equivalent_one() -> None:
    whole = preset.load("q2-q8").variants
    assert Draft(variants=whole).arguments() == ("run", "micro")
    assert Draft(variants=("Q4_K_M", "BF16")).arguments() == ("run", "micro", "--variants", "=Q4_K_M")
    assert Draft(variants=("BF16",)).arguments()[-1] == "=BF16"
    some = Draft("a b", "q4", preset.load("q4").variants, {"tasks": "none", "limit": " 5 ", "allow_code": "yes"})
    assert shlex.join(some.arguments()) == "run 'a b' --preset q4 --tasks none --limit 5 --allow-code-execution"


@pytest.mark.parametrize(
    ("chosen", "reference", "planned"),
    [
        (("Q4_K_M", "int8:sq"), "", ["BF16", "Q4_K_M", "int8:sq"]),
        (("int8:sq",), "", ["int8:sq"]),  # only torch variants: no GGUF reference is needed
        (("BF16", "int8:sq"), "", ["BF16", "int8:sq"]),
        (("BF16", "Q4_K_M"), "Q8_0", ["Q8_0", "BF16", "Q4_K_M"]),
        (preset.load("q2-q8").variants, "Q8_0", ["Q8_0", "BF16", *preset.load("q2-q8").variants[1:-1]]),
        (preset.load("q2-q8").variants, "", list(preset.load("q2-q8").variants)),
    ],
)
def test_the_command_measures_the_chosen_variants(chosen: tuple[str, ...], reference: str, planned: list[str]) -> None:
    draft = Draft(variants=chosen).with_typed(reference=reference)
    request = asked_by(shlex.join(["sweep", *draft.arguments()]))
    named = _variants(preset.load(request.preset), request, request.reference or "BF16")
    assert list(dict.fromkeys(named)) == planned


def test_the_precision_of_texts_is_saved_in_a_preset_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    draft = Draft(variants=("BF16", "Q4_0")).with_typed(precision="2%")
    assert draft.arguments()[-2:] == ("--precision", "2%")
    file.write_text(preset.as_toml(draft.as_preset("mine")))
    saved = preset.load(str(file))
    assert saved.precision == "2%"
    again = Draft("micro", str(file), saved.variants, preset_fields(saved))
    assert again.arguments() == ("run", "micro", "--preset", str(file))
    assert again.with_typed(precision="full").arguments()[-2:] == ("--precision", "full")
    for wrong in ("2", "70%", "ful"):
        with pytest.raises(InputError, match=f"--precision {wrong}: choose full, decide, or a precision such as 5%"):
            draft.with_typed(precision=wrong).as_preset("mine")
        file.write_text(f'reference = "BF16"\nvariants = ["BF16"]\nprecision = "{wrong}"\n')
        with pytest.raises(InputError, match=rf"mine.toml: 'precision' {wrong}: choose full"):
            preset.load(str(file))


def test_a_projector_file_counts_in_the_memory_and_not_in_the_file() -> None:
    """Also of a name that is written otherwise than in the plan; before there is a plan, sizes are the text model's."""
    name = "Q4_K_M+mmproj=Q8_0"
    draft = Draft(variants=(name, "q8_0+mmproj=F16"))
    row = {"bits_per_weight": 4.5, "file_bytes": 2048, "memory_bytes": 4096}
    plan = {
        "variants": [
            {"variant": name, **row, "projector": {"file_bytes": 1, "memory_bytes": 1024}},
            {"variant": "Q8_0", **row, "projector": {"file_bytes": 1, "memory_bytes": 2048}},
        ]
    }
    colours = Palette(**{field.name: Style() for field in fields(Palette)})

    def shown_of(variant: str, figures: Figures) -> list[str]:
        rows = dict(plan_rows(draft, figures, lambda _: True, colours))
        return [cell.plain for cell in rows[variant]][2:5]

    planned = Figures(draft, plan, {})
    assert shown_of(name, planned) == ["4.50", "2.00 KiB", "5.00 KiB"]
    assert shown_of("q8_0+mmproj=F16", planned) == ["4.50", "2.00 KiB", "6.00 KiB"]
    unplanned = Figures(Draft(), {}, {"Q4_K_M": VariantSize(4.9, 1024)})
    assert shown_of(name, unplanned) == ["4.90", "1.00 KiB", fmt.MISSING]


@pytest.mark.usefixtures("asks_processes")
def test_the_screen_shows_the_plan_of_the_dry_run(swept: Workspace, text: Path) -> None:
    given = ("--variants", "=Q4_K_M,Q2_K", "--tasks", "micro_form", "--limit", "8", "--perplexity", str(text))
    ended = sweep("run", "micro", *given, "--workspace", str(swept.root), "--format", "json", "--dry-run")
    plan = json.loads(ended.stdout)

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: is_planned(screen))
            fields = {"tasks": "micro_form", "limit": "8", "perplexity": str(text)}
            screen.change(screen.draft.with_typed(**fields), variants=("BF16", "Q4_K_M", "Q2_K"))
            await until(pilot, lambda: is_planned(screen))
            assert screen.plan == plan
            words = shown(app)
            assert f"{sum(not cell['done'] for cell in plan['cells'])} of {len(plan['cells'])} jobs to do" in words
            assert "about" in words  # from the first run, for twice as many items
            assert plan["seconds"] is not None

    play(script())


@pytest.mark.usefixtures("stored_plan")
def test_every_key(swept: Workspace, tmp_path: Path) -> None:
    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: is_planned(screen))
            table = screen.query_one(Table)
            assert set(screen.draft.variants) == set(preset.load("q2-q8").variants)
            table.go_to("Q4_0")
            await pilot.press("space")
            assert "Q4_0" in screen.draft.variants
            assert "Q4_0" in shown(app).splitlines()[-2]  # the command line
            await pilot.press("space")
            assert "Q4_0" not in screen.draft.variants
            await pilot.press("u")
            assert screen.draft.variants == ()
            await pilot.press("R")
            assert app.screen is screen  # nothing to run
            await pilot.press("space")
            assert screen.draft.variants == ("Q4_0",)

            await pilot.press("e", *"none")
            assert screen.draft.typed_value("tasks") == "none"
            assert "--tasks none" in shown(app)
            await pilot.press("escape")
            assert table.has_focus

            await pilot.press("w")
            app.screen.query_one(Input).value = str(tmp_path / "mine.toml")
            await pilot.press("enter")
            saved = preset.load(str(tmp_path / "mine.toml"))
            assert (saved.variants, saved.tasks) == (("BF16", "Q4_0"), ("none",))
            (tmp_path / "theirs.toml").write_text("theirs")
            await pilot.press("w")
            for path, reason in (
                (tmp_path / "absent" / "mine.toml", "cannot be written"),
                (tmp_path / "theirs.toml", "press enter again to replace it"),
            ):
                app.screen.query_one(Input).value = str(path)
                await pilot.press("enter")
                assert app.screen.query_one(Input).value == str(path)  # the window and its text stay
                assert reason in app.screen.query_one(Note).text.plain
            assert (tmp_path / "theirs.toml").read_text() == "theirs"
            await pilot.press("enter")
            assert app.screen is screen
            assert preset.load(str(tmp_path / "theirs.toml")).variants == saved.variants

            await pilot.press("o", *"q4", "enter")
            assert screen.draft.preset == "q4"
            assert set(screen.draft.variants) == set(preset.load("q4").variants)
            assert "sweep run micro --preset q4" in shown(app)
            await pilot.press("o")
            app.screen.query_one(Input).value = str(tmp_path / "mine.toml")
            await pilot.press("enter")
            assert screen.draft.variants == saved.variants
            assert screen.query_one("#field-tasks", Input).value == "none"

            await pilot.press("m", *"micro-moe", "enter")
            assert screen.draft.model == "micro-moe"
            await pilot.press("y")
            line = [
                "sweep",
                "run",
                "micro-moe",
                "--preset",
                str(tmp_path / "mine.toml"),
                "--workspace",
                str(swept.root),
            ]
            assert shlex.split(app.clipboard) == line

            await pilot.press("slash", *"iq4")
            assert table.keys == ["IQ4_NL", "IQ4_XS"]
            await pilot.press("enter")
            assert table.has_focus
            await pilot.press("escape")
            assert table.row_count > 30
            await until(pilot, lambda: is_planned(screen))

    play(script())


def test_figures_belong_to_the_model_and_the_settings_that_are_shown(swept: Workspace) -> None:
    micro = presets.builtin_models()["micro"]
    exact = sizes(open_source(micro.directory, "micro"), ["Q4_0", "Q4_K_M"])

    def row(app: Any, variant: str) -> list[str]:
        words = next(line for line in shown(app).splitlines() if f" {variant} " in line).partition("│")[0]
        return words.split()

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: is_planned(screen) and screen._sizes[0] == "micro")
            one = exact["Q4_0"]  # a variant that is not chosen
            assert row(app, "Q4_0")[1:4] == [f"{one.bits_per_weight:.2f}", *fmt.size(one.file_bytes).split()]
            chosen, size = row(app, "Q4_K_M"), fmt.size(exact["Q4_K_M"].file_bytes)
            assert chosen[3:5] == size.split()
            assert len(chosen) == 8
            assert "micro_sums" in shown(app)  # the default of a field

            screen.change(screen.draft.with_typed(ctx="512"))
            assert row(app, "Q4_K_M") == [*chosen[:5], "–", "…"]  # the memory and the jobs are not known yet
            assert "planning …" in shown(app)
            assert "jobs to do" not in shown(app)
            await until(pilot, lambda: is_planned(screen))
            again = row(app, "Q4_K_M")
            assert len(again) == 8
            assert again[5:7] != chosen[5:7]

            await pilot.press("1", "m", *"micro-moe", "enter", "2")  # chosen on the Fit screen
            assert not is_planned(screen)
            assert "micro-moe" in shown(app)
            assert size not in shown(app)
            assert row(app, "Q4_K_M") == ["✓", "Q4_K_M", "–", "–", "–", "…"]
            assert row(app, "Q4_0") == ["Q4_0", "–", "–", "–"]
            assert "planning …" in shown(app)
            await until(pilot, lambda: is_planned(screen) and screen._sizes[0] == "micro-moe")
            assert size not in shown(app)
            assert len(row(app, "Q4_K_M")) == 8
            assert len(row(app, "Q4_0")) == 5

            await pilot.press("slash", *"zzz")
            assert "no name contains “zzz”" in shown(app)
            await pilot.press("escape")
            assert "no name contains" not in shown(app)

    play(script())


def test_int8_variants_are_planned_like_quants(swept: Workspace) -> None:
    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            screen.change(variants=("Q4_K_M",))
            screen.query_one(Table).go_to("int8:sq-ph-dyn")
            await pilot.press("space")
            await until(pilot, lambda: is_planned(screen) and len(screen.plan["variants"]) == 4)  # type: ignore[index]
            assert "=Q4_K_M,int8:sq-ph-dyn" in shown(app)
            assert "BF16 and torch:BF16, for comparison" in shown(app)
            known = {row["variant"]: row for row in screen.plan["variants"]}  # type: ignore[index]
            row = next(line for line in shown(app).splitlines() if "int8:sq-ph-dyn " in line and "MiB" in line)
            assert f"{known['int8:sq-ph-dyn']['bits_per_weight']:.2f}" in row
            await pilot.press("a", "ctrl+u", *"int8:sqq", "enter")
            assert "sqq: there is no recipe" in shown(app)
            assert app.screen.query_one(Input).value == "int8:sqq"  # what was typed is still there, to correct it
            await pilot.press("backspace", "enter")
            assert app.screen is screen
            assert screen.draft.variants == ("Q4_K_M", "int8:sq-ph-dyn", "int8:sq")

    play(script())
