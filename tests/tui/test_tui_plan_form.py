"""The fields of the Plan screen: each option of `sweep run`, their keys, and small terminals."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from driving import opened, play, shown, until
from plan_screens import asked_by, is_planned
from textual.widgets import Input

from sweep.kv_cache import KVCache
from sweep.planning.effort import Effort
from sweep.planning.request import Keep, Request, Search
from sweep.workspace import Workspace
from tui.screens.fit import FitScreen
from tui.screens.plan import PlanScreen
from tui.widgets.form import FIELDS, OptionForm
from tui.widgets.path_input import PathInput
from tui.widgets.table import Table

# field of a Request, what is typed or chosen for it, and the value that the command must read
TYPED: dict[str, tuple[str, Any]] = {
    "effort": ("quick", Effort.QUICK),
    "precision": ("5%", "5%"),
    "search": ("smallest-first", Search.SMALLEST_FIRST),
    "measure": ("text,speed", ("text", "speed")),
    "depth": ("0,4096", (0, 4096)),
    "speed_seconds": ("5", 5.0),
    "tasks": ("micro_form,a.yaml", ("micro_form", "a.yaml")),
    "limit": ("8", 8),
    "num_fewshot": ("0", 0),
    "chat_template": ("no", False),
    "thinking": ("off", False),
    "thinking_scoring": ("lm-eval", "lm-eval"),
    "max_gen_toks": ("64", 64),
    "task_data": ("~/data", Path("~/data").expanduser()),
    "allow_code": ("yes", True),
    "perplexity": ("it's.txt,b.jsonl", (Path("it's.txt"), Path("b.jsonl"))),
    "window": ("256", 256),
    "stride": ("128", 128),
    "reference": ("Q8_0", "Q8_0"),
    "parse_special": ("yes", True),
    "requantize": ("yes", True),
    "imatrix": ("auto", "auto"),
    "calibration": ("c.txt", Path("c.txt")),
    "min_pixels": ("4096", 4096),
    "max_pixels": ("1000000", 1_000_000),
    "image_cache": ("2GiB", 2 << 30),
    "audio": ("~/speech", Path("~/speech").expanduser()),
    "language": ("de", "de"),
    "ctx": ("512", 512),
    "kv_type": ("q8_0,f16", KVCache("q8_0", "f16")),
    "gpu": ("RTX_4090,24GiB", ("RTX_4090", "24GiB")),
    "ngl": ("3", 3),
    "n_cpu_moe": ("2", 2),
    "tensor_split": ("3,1", (3.0, 1.0)),
    "workers": ("2", 2),
    "keep": ("best", Keep.BEST),
}
CHOSEN = {"model", "preset", "variants"}  # chosen by keys and in the table
NOT_THERE = {"workspace", "dry_run"}  # set by the screen itself
NOT_THERE |= {"quant", "write_base", "force", "windows"}  # only for `sweep eval` and `sweep convert`
NOT_THERE |= {"executor"}  # there is only one without extensions
NOT_THERE |= {"draft"}  # its acceptance is measured from the command line
NOT_THERE |= {"tolerance", "export"}  # what a reader accepts is asked where the results are read
NOT_THERE |= {"min_tps", "max_kld", "min_recovery"}  # the target, which is asked there too, and on Fit


@pytest.mark.usefixtures("stored_plan")
def test_paths_are_completed(swept: Workspace, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("long.txt", "longer.txt", "other.gguf"):
        (tmp_path / "texts" / name).touch()

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await pilot.press("e")
            screen.query_one(OptionForm).enter("perplexity")
            field = screen.query_one("#field-perplexity", PathInput)
            await pilot.press(*"te", "tab")
            assert field.value == "texts/"
            await pilot.press("l", "tab")
            assert field.value == "texts/long"  # what both have in common
            await until(pilot, lambda: field._suggestion == "texts/long.txt")
            assert screen.draft.typed_value("perplexity") == "texts/long"
            await pilot.press("right")  # takes the suggestion, as in a shell
            assert screen.draft.typed_value("perplexity") == "texts/long.txt"
            assert field.has_focus
            await pilot.press("tab")
            assert not field.has_focus  # nothing to complete: to the next part
            screen.query_one(OptionForm).enter("imatrix")
            await pilot.press(*"texts/", "tab")
            assert screen.draft.typed_value("imatrix") == "texts/other.gguf"  # no text
            await pilot.press("escape", "a", "ctrl+u", *f"gguf:{tmp_path}/te", "tab", "o", "tab")
            assert app.screen.query_one(Input).value == f"gguf:{tmp_path}/texts/other.gguf"
            await pilot.press("escape")

    play(script())


@pytest.mark.usefixtures("stored_plan")
def test_every_option_has_a_field_and_the_command_contains_its_value(swept: Workspace) -> None:
    assert {field.name for field in FIELDS} == set(TYPED)
    assert {field.name for field in fields(Request)} == set(TYPED) | CHOSEN | NOT_THERE

    async def script() -> None:
        async with opened(swept, "plan", size=(140, 44)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            screen.change(preset="q4", variants=("Q4_0", "int8:sq"))
            await pilot.press("e")
            for field in FIELDS:
                assert app.focused is not None
                assert app.focused.name == field.name
                assert "--" in str(screen.query_one("#hint").render())  # the hint says what it is for
                text = TYPED[field.name][0]
                if isinstance(app.focused, Input):
                    await pilot.press(*text)
                else:
                    while app.focused.value != text:  # type: ignore[attr-defined]
                        await pilot.press("space")
                await pilot.press("down")
            await pilot.press("escape", "y")
            given = {name: value for name, (_, value) in TYPED.items()}
            expected = Request(preset="q4", variants="=Q4_0,int8:sq", workspace=swept.root, **given)
            assert asked_by(app.clipboard) == expected

    play(script())


@pytest.mark.parametrize("size", [(80, 24), (99, 60), (20, 5), (140, 12)])
@pytest.mark.usefixtures("stored_plan")
def test_all_fields_can_be_reached_in_a_small_terminal(swept: Workspace, size: tuple[int, int]) -> None:
    async def script() -> None:
        async with opened(swept, "plan", size=size) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await pilot.press("e", *["down"] * len(FIELDS), *["space"] * 2)
            assert app.focused is not None
            assert app.focused.name == "keep"
            assert screen.draft.typed_value("keep") == "best"
            assert screen.region.contains_region(app.focused.region)  # scrolled into view
            if size == (80, 24):
                assert "--keep" in shown(app)  # the hint
                assert "best" in shown(app)
            await pilot.press("escape")
            assert screen.query_one(Table).has_focus
            assert screen.query_one(Table).region.height > 1

    play(script())


def test_the_gpu_of_the_fit_screen_is_used_by_the_plan(swept: Workspace) -> None:
    async def script() -> None:
        async with opened(swept, "fit", size=(140, 44)) as (app, pilot):
            fit = app.screen
            assert isinstance(fit, FitScreen)
            await until(pilot, lambda: fit.report is not None and not fit._busy)
            fit.query_one(Table).go_to("int8:sq-ph")
            await pilot.press("space")
            assert "int8:sq-ph" in app.session.draft.variants
            await pilot.press("v", *"64MiB", "enter", "M", "K", "2")  # M: no RAM; K: the next KV type
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: is_planned(screen))
            assert screen.query_one("#field-gpu", Input).value == "64MiB"
            assert "--gpu 64MiB" in shown(app)
            assert screen.query_one("#field-kv_type", Input).value == "q8_0"
            assert "--kv-type q8_0" in shown(app)
            assert "q8_0 KV cache" in shown(app)  # in the estimate, where it wraps
            assert "int8:sq-ph" in screen.plan["skipped"]  # type: ignore[index]
            assert "skipped" in next(line for line in shown(app).splitlines() if "✗  Q4_K_M" in line)
            screen.query_one("#field-kv_type", Input).value = ""
            await pilot.pause()
            await pilot.press("1", "v", *"this machine", "enter", "2")
            assert "--gpu" not in shown(app)
            assert app.session.question.kv_type == "f16"  # what is changed on Plan is asked on Fit

    play(script())
