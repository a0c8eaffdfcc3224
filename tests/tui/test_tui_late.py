"""Late answers: an answer to an earlier question, or to a closed window, is not shown."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from driving import Driver, opened, play, settled, shown, stored_answer, until
from fixed_run import RUN, fixed_run
from rich.text import Text
from textual.app import App, ComposeResult
from textual.timer import Timer
from textual.widgets import Input, Static

from sweep.commands.follow import Follower, Snapshot
from sweep.execution.logs import log_path
from sweep.workspace import Workspace
from tui.screens import fit, plan, types
from tui.screens.fit import FitScreen
from tui.screens.log import LogScreen
from tui.screens.plan import PlanScreen
from tui.screens.results import ResultsScreen
from tui.screens.run import RunScreen
from tui.screens.types import TypesScreen
from tui.widgets.job_table import JobTable
from tui.widgets.table import Table
from tui.widgets.text_pane import TextPane
from tui.workers import WorkerHost


class Answers:
    """Replaces `ask` and `planned`: every question, cancelled or not, waits until `give` is called."""

    def __init__(self, answer: Any) -> None:
        self.questions: list[tuple[Any, ...]] = []
        self._answer = answer
        self._given = threading.Event()

    def __call__(self, *question: Any, **_: Any) -> Any:
        self.questions.append(question)
        assert self._given.wait(30.0)
        return self._answer

    def give(self) -> None:
        self._given.set()


@pytest.fixture
def fixed(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "fixed")
    fixed_run(workspace)
    return workspace


def deliveries(screen: WorkerHost, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list that grows with every delivery of a thread to the screen, needed or not."""
    made: list[object] = []
    deliver = screen.deliver
    monkeypatch.setattr(screen, "deliver", lambda *given: made.append(deliver(*given)))
    return made


def test_an_answer_to_a_closed_window_is_ignored(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers([{"files": [{"bits_per_weight": 4.0, "file_bytes": 1, "census": {}}]}])
    monkeypatch.setattr(fit, "run_command", lambda *_, **__: [stored_answer("fit")])
    monkeypatch.setattr(types, "run_command", answers)

    async def script() -> None:
        async with opened(fixed, "fit", RUN) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, FitScreen)
            await until(pilot, lambda: screen.report is not None)
            await pilot.press("t")
            window = app.screen
            assert isinstance(window, TypesScreen)
            await until(pilot, lambda: answers.questions)
            replaced: list[object] = []
            monkeypatch.setattr(window, "replace", replaced.append)
            delivered = deliveries(window, monkeypatch)
            await pilot.press("escape")
            answers.give()
            await until(pilot, lambda: delivered)
            assert not replaced
            assert "Unexpected error" not in shown(app)

    play(script())


def test_a_gpu_chosen_while_fit_is_computing_stays_chosen(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers([stored_answer("fit")])
    monkeypatch.setattr(fit, "run_command", answers)

    async def script() -> None:
        async with opened(fixed, "fit", RUN) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, FitScreen)
            await until(pilot, lambda: answers.questions)
            await pilot.press("4", "v", *"24GiB", "enter")
            assert app.session.gpus == ("24GiB",)
            delivered = deliveries(screen, monkeypatch)
            answers.give()
            await until(pilot, lambda: delivered)
            assert app.session.gpus == ("24GiB",)
            assert screen.report is None  # that answer is about another GPU
            await pilot.press("1")
            await until(pilot, lambda: screen.report is not None)
            assert answers.questions[-1][0][-2:] == ("--gpu", "24GiB")

    play(script())


def test_rows_of_the_previous_question_are_marked(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "run_command", lambda *_, **__: [stored_answer("fit")])

    async def script() -> None:
        async with opened(fixed, "fit", RUN) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, FitScreen)
            await until(pilot, lambda: screen.report is not None)
            assert screen.report is not None
            answers = Answers([stored_answer("fit")])
            monkeypatch.setattr(fit, "run_command", answers)
            below = f"(shown: {screen.report.context:,}, f16)"
            assert below not in shown(app)
            await pilot.press("K")
            assert below in shown(app)
            answers.give()
            await until(pilot, lambda: below not in shown(app))

    play(script())


def test_a_hidden_pane_does_not_keep_its_previous_text(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pane that is shown again draws its first frame before it knows its size."""

    async def script() -> None:
        async with opened(fixed, "results", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            pane = screen.query_one(TextPane)
            drawn: list[str] = []
            render = pane.render_line
            monkeypatch.setattr(pane, "render_line", lambda y: drawn.append(render(y).text.strip()) or render(y))
            pane.show(Text("before"))
            await settled(pilot)
            assert "before" in drawn
            screen.query_one("#body").add_class("hidden")
            await settled(pilot)
            drawn.clear()
            pane.show(Text("after"))
            screen.query_one("#body").remove_class("hidden")
            await settled(pilot)
            assert "after" in drawn
            assert "before" not in drawn

    play(script())


def test_a_filter_without_matches_clears_the_details(fixed: Workspace) -> None:
    async def script() -> None:
        async with opened(fixed, "results", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            assert "perplexity" in screen.query_one(TextPane).text.plain
            await pilot.press("slash", *"no such variant")
            assert "perplexity" not in screen.query_one(TextPane).text.plain

    play(script())


def test_a_plan_of_an_earlier_draft_is_not_shown(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "planned", lambda *_: stored_answer("plan"))

    async def script() -> None:
        async with opened(fixed, "plan", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: screen.plan is not None)
            before = screen.draft
            screen.change(variants=())
            screen.show(before, "of the draft before")
            await settled(pilot)
            assert "of the draft before" not in shown(app)
            assert screen.plan is not None

    play(script())


def test_a_draft_that_an_answer_on_fit_changed_is_planned(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(stored_answer("plan"))
    monkeypatch.setattr(plan, "planned", answers)

    async def script() -> None:
        async with opened(fixed, "plan", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: answers.questions)
            app.session.draft = screen.draft.with_typed(ctx="512")
            answers.give()
            await until(pilot, lambda: screen.plan is not None)
            assert screen._planned.typed_value("ctx") == "512"
            command, _, _ = answers.questions[-1]
            assert "512" in command.arguments

    play(script())


def test_a_deselected_variant_is_not_shown_as_a_reference(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """+ marks variants that the plan adds. Until the next plan, a deselected variant is still in the current plan."""
    monkeypatch.setattr(plan, "planned", lambda *_: stored_answer("plan"))

    async def script() -> None:
        async with opened(fixed, "plan", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: screen.plan is not None)
            answers = Answers(stored_answer("plan"))
            monkeypatch.setattr(plan, "planned", answers)
            screen.query_one(Table).go_to("Q4_K_M")
            await pilot.press("space")
            (row,) = [line for line in shown(app).splitlines() if " Q4_K_M " in line][:1]
            assert "+" not in row.partition("Q4_K_M")[0]
            answers.give()

    play(script())


def test_a_new_plan_does_not_remove_typed_letters(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "planned", lambda *_: stored_answer("plan"))

    async def script() -> None:
        async with opened(fixed, "plan", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: screen.plan is not None)
            await pilot.press("e", "a")
            field = screen.query_one("#field-tasks", Input)
            field.insert_text_at_cursor("b")  # the draft does not know this letter yet
            screen.show(screen.draft, stored_answer("plan"))
            assert field.value == "ab"
            await settled(pilot)
            assert screen.draft.typed_value("tasks") == "ab"

    play(script())


def test_the_log_belongs_to_the_highlighted_job(fixed: Workspace) -> None:
    for label in ("Q2_K/speed", "Q3_K_M/speed", "IQ4_XS/text"):
        log_path(fixed.run(RUN), label).parent.mkdir(parents=True, exist_ok=True)
        log_path(fixed.run(RUN), label).write_text(f"what {label.partition('/')[0]} logged\n")

    async def script() -> None:
        async with opened(fixed, "run", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, RunScreen)
            await until(pilot, lambda: screen.snapshot is not None)
            cells = screen.query_one(JobTable)
            cells.go_to_cell("Q2_K/speed")
            await until(pilot, lambda: "what Q2_K logged" in shown(app))
            for label, words in {"Q2_K/text": "no log output", "IQ4_XS/text": "not run, so there is no log"}.items():
                cells.go_to_cell(label)
                await until(pilot, lambda words=words: words in shown(app))  # type: ignore[misc]
                assert "logged" not in shown(app)
            cells.go_to_cell("Q2_K/speed")
            await until(pilot, lambda: "what Q2_K logged" in shown(app))
            screen.workers.cancel_group(screen, "follow")
            cells.go_to_cell("Q3_K_M/speed")
            await settled(pilot)
            assert "what Q2_K logged" not in shown(app)
            assert screen.snapshot is not None
            screen.show(screen.snapshot, ("Q2_K/speed", "what Q2_K logged"))  # read before the highlight moved
            await settled(pilot)
            assert "what Q2_K logged" not in shown(app)
            await pilot.press("L")
            assert isinstance(app.screen, LogScreen)
            await until(pilot, lambda: "what Q3_K_M logged" in shown(app))

    play(script())


def test_a_run_that_is_no_longer_followed_is_not_shown_again(fixed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another sweep starts, a late snapshot of the previous run is not shown."""
    looks, holding, go_on = [], threading.Event(), threading.Event()
    look = Follower.look

    def slow_look(follower: Follower) -> Snapshot:
        found = look(follower)
        if holding.is_set():
            looks.append(found)
            assert go_on.wait(30.0)
        return found

    monkeypatch.setattr(Follower, "look", slow_look)

    async def script() -> None:
        async with opened(fixed, "run", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, RunScreen)
            await until(pilot, lambda: screen.snapshot is not None)
            holding.set()
            await until(pilot, lambda: looks)
            launch = Launching()
            app.session.launch = launch  # type: ignore[assignment]
            screen.watch_run()
            delivered = deliveries(screen, monkeypatch)
            go_on.set()
            await until(pilot, lambda: delivered)
            assert "starting the sweep" in shown(app)
            for _ in range(3):  # away and back: still only one thread waits
                await pilot.press("4", "3")
            launch.is_known.set()
            await until(pilot, lambda: app.session.launch is None and screen.snapshot is not None)
            assert len(launch.threads) == 1
            assert "✓ done" in shown(app)

    play(script())


class Launching:
    """Replaces a Launch. Only one thread may call `run`, because a Launch deletes its file when the run is known."""

    command = None

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.is_known = threading.Event()

    def run(self) -> str | None:
        self.threads.add(threading.get_ident())
        return RUN if self.is_known.is_set() else None


def test_the_highlight_stays_inside_a_run_with_fewer_columns(fixed: Workspace) -> None:
    async def script() -> None:
        async with opened(fixed, "run", RUN, (140, 40)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, RunScreen)
            await until(pilot, lambda: screen.snapshot is not None)
            await pilot.press("g", "l", "l", "l", "l")
            cells = screen.query_one(JobTable)
            assert cells.label == "BF16/micro_sums"
            screen.workers.cancel_group(screen, "follow")
            assert screen.snapshot is not None
            few = replace(screen.snapshot.plan, cells=screen.snapshot.plan.cells[:1])
            screen.show(replace(screen.snapshot, plan=few), (None, ""))
            await settled(pilot)
            assert cells.label == "BF16/export"

    play(script())


def test_a_run_can_be_found_while_a_window_is_open(fixed: Workspace) -> None:
    async def script() -> None:
        async with opened(fixed, "run", RUN, (140, 40)) as (app, pilot):
            await pilot.press("question_mark")
            app._found(RUN, False)
            app._not_found("no such run")
            await settled(pilot)
            await pilot.press("escape", "4")
            app.session.run_id = "another"  # chosen in the meantime
            app._found(RUN, True)
            assert app.session.run_id == "another"
            assert app.current_mode == "results"

    play(script())


def test_a_new_size_is_drawn_however_late_textuals_timer_is() -> None:
    class Late(App[None]):
        """Its timers wait longer, as those of a busy machine."""

        def compose(self) -> ComposeResult:
            yield Static("words")

        def set_timer(self, delay: float, *given: Any, **more: Any) -> Timer:
            return super().set_timer(delay + 0.2, *given, **more)

    async def script() -> None:
        app = Late()
        async with app.run_test(size=(100, 20)):
            for width in (60, 90):
                await Driver(app).resize_terminal(width, 20)
                assert app.query_one(Static).size.width == width

    play(script())
