"""The Plan screen: chosen variants, the plan for them, and the command."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from driving import PATIENCE, opened, play, shown, stored_answer, sweep, until
from rich.style import Style
from textual.widgets import Input, Static

import presets
from converters.catalogue import sizes
from converters.export import export, open_source
from sweep import format as fmt
from sweep.cli.app import app as command_line
from sweep.commands import run as command
from sweep.commands.launch import Command
from sweep.kv_cache import KVCache
from sweep.planning import preset
from sweep.planning.effort import Effort
from sweep.planning.prepare import _variants
from sweep.planning.request import Keep, Request
from sweep.workspace import Workspace
from tui.screens import plan as plan_screen
from tui.screens.fit import FitScreen
from tui.screens.plan import PlanScreen
from tui.screens.run import RunScreen
from tui.screens.start import StartScreen
from tui.state.draft import Draft
from tui.state.session import Session
from tui.state.sizes import VariantSize
from tui.theme import Palette
from tui.widgets.form import FIELDS, OptionForm
from tui.widgets.job_table import JobTable
from tui.widgets.note import Note
from tui.widgets.path_input import PathInput
from tui.widgets.plan_table import Figures, plan_rows
from tui.widgets.table import Table

# field of a Request, what is typed or chosen for it, and the value that the command must read
TYPED: dict[str, tuple[str, Any]] = {
    "effort": ("quick", Effort.QUICK),
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
NOT_THERE = {
    "workspace",
    "dry_run",
    "quant",
    "write_base",
    "force",
}  # set by the screen itself, or only for `sweep eval`
NOT_THERE |= {"executor"}  # there is only one without extensions
NOT_THERE |= {"draft"}  # its acceptance is measured from the command line
NOT_THERE |= {"tolerance", "export"}  # what a reader accepts is asked where the results are read
NOT_THERE |= {"min_tps", "max_kld", "min_recovery"}  # the target, which is asked there too, and on Fit


def asked_by(line: str) -> Request:
    """The Request that the real command line reads from a line."""
    seen: list[Request] = []

    class Seen(Exception):
        pass

    def see(request: Request, *_: object) -> None:
        seen.append(request)
        raise Seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "prepare", see)
        with pytest.raises(Seen):
            command_line(shlex.split(line)[1:], standalone_mode=False)
    return seen[0]


def side(app: Any) -> str:
    """What the form and the summary say, as one line."""
    return " ".join(" ".join(line.rpartition("│")[2].split()) for line in shown(app).splitlines())


def is_planned(screen: PlanScreen) -> bool:
    """Whether the shown plan is of the current draft."""
    return screen.plan is not None and not screen._busy and screen._timer is None


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


def test_every_option_has_a_field_and_the_command_contains_its_value(
    swept: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_screen, "planned", lambda *_: stored_answer("plan"))  # not a process for every key
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


@pytest.mark.parametrize("size", [(80, 24), (99, 60), (20, 5), (140, 12)])
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
