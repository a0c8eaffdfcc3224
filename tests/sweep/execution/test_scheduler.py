"""The scheduler runs cells in the right order and the right ones at the same time, with any executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.endings import EVENTS
from sweep.events import Event
from sweep.execution.control import CANCELLED, Paused, request_cancel, request_pause, withdraw_pause
from sweep.execution.protocol import Answer, Failed, Finished, Order
from sweep.execution.scheduler import Scheduler
from sweep.jobs import registry
from sweep.jobs.base import Result, Site, StoredJob
from sweep.jobs.cell import Cell
from sweep.jobs.settings import ComputeResources
from sweep.results.store import Store


@dataclass(frozen=True)
class StepResult(Result):
    text: str = ""


@dataclass(frozen=True)
class Step(StoredJob[StepResult]):
    """A job without work. `batched` ones run together."""

    kind = "step"
    result_type = StepResult

    name: str
    batched: bool = False
    reference: str | None = None
    file: str | None = None

    def identity(self, resources: ComputeResources) -> Any:
        return ["step", self.name]

    @property
    def output(self) -> Artefact | None:
        return None if self.file is None else Artefact(self.file)

    @property
    def batch_key(self) -> str | None:
        return "all" if self.batched else None

    @property
    def essential(self) -> bool:
        return self.batched

    def without_reference(self) -> Step:
        return Step(self.name)

    def run(self, site: Site) -> StepResult:
        raise NotImplementedError


@dataclass(frozen=True)
class Preparation(Step):
    kind = "preparation"
    is_preparation = True


@dataclass(frozen=True)
class ExclusiveStep(Step):
    kind = "exclusive"
    exclusive = True


@dataclass(frozen=True)
class Fetch(Preparation):
    kind = "fetch"
    in_background = True


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Step, Preparation, ExclusiveStep, Fetch):
        monkeypatch.setitem(registry._STORED, kind.kind, kind)


@dataclass
class ScriptedExecutor:
    """An executor that answers with `reply`, in the order in which orders were started."""

    slots: int = 1
    reply: Callable[[Order], Answer] = lambda order: done(order)
    orders: list[Order] = field(default_factory=list)
    most: int = 0
    paused: bool = False
    cancelled: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    _running: list[Order] = field(default_factory=list)
    log: list[list[str]] = field(default_factory=list)

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        self._running.append(order)
        self.log.append(sorted(name_of(job) for one in self._running for job in one.jobs))
        for_slots = [one for one in self._running if not one.jobs[0].in_background]
        assert len(for_slots) <= self.slots
        assert len(self._running) - len(for_slots) <= 1

    def expect(self, group: str, log: str) -> None:
        self.expected.append(group)

    def answer(self, timeout: float) -> Answer | None:
        return self.reply(self._running.pop(0))

    def cancel(self, id: str) -> None:
        self.cancelled.append(id)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self._running.clear()

    @property
    def names(self) -> list[list[str]]:
        """The names of the jobs of each order."""
        return [[name_of(job) for job in order.jobs] for order in self.orders]


def name_of(job: Any) -> str:
    return str(job.name)


def done(order: Order) -> Finished:
    return Finished(order.id, tuple(StepResult(name_of(job)) for job in order.jobs), 1.0, ComputeResources(3))


def cell(job: Step, variant: str = "V", needs: Iterable[str] = (), optional_needs: Iterable[str] = ()) -> Cell:
    return Cell(job.name, variant, job.name, job, tuple(needs), tuple(optional_needs))


def run_cells(
    tmp_path: Path, cells: list[Cell], executor: ScriptedExecutor | None = None, **options: Any
) -> tuple[ScriptedExecutor, list[Event], Store]:
    executor, events = executor or ScriptedExecutor(), list[Event]()
    store = Store(tmp_path / "s.db")
    on_event = options.pop("on_event", lambda _: None)

    def emit(event: Event) -> None:
        events.append(event)
        on_event(event)

    Scheduler(cells, store, executor, tmp_path, tmp_path, emit, **options).run("r")
    return executor, events, store


def unfinished(events: list[Event]) -> dict[str, tuple[str, str]]:
    """The cells without a whole result: how they ended, and why."""
    return {str(one.cell): (EVENTS[one.event], one.data["error"]) for one in events if one.event in EVENTS}


def test_preparation_jobs_run_first_and_batches_run_together(tmp_path: Path) -> None:
    cells = [
        cell(Preparation("a", batched=True), "A"),
        cell(Step("read a"), "A", needs=["a"]),
        cell(Preparation("matrix"), "A", needs=["a"]),
        cell(Preparation("b", batched=True), "B", needs=["matrix"]),
        cell(Preparation("c", batched=True), "C", needs=["matrix"]),
        cell(Step("read b"), "B", needs=["b"], optional_needs=["read a"]),
    ]
    executor, events, store = run_cells(tmp_path, cells)
    assert executor.names == [["a"], ["matrix"], ["b", "c"], ["read a"], ["read b"]]
    assert [event.cell for event in events if event.event == "cell_done"] == [
        "A/a", "A/matrix", "B/b", "C/c", "A/read a", "B/read b",
    ]  # fmt: skip
    outcome = store.outcomes(["b"])["b"]
    assert (outcome.status, outcome.seconds, outcome.resources) == ("ok", 0.5, ComputeResources(3))
    assert executor.expected == ["B"]


def test_cells_that_need_a_failed_cell_are_skipped_but_those_that_need_it_optionally_run(tmp_path: Path) -> None:
    cells = [
        cell(Preparation("a"), "A"),
        cell(Preparation("b"), "A", needs=["a"]),
        cell(Step("of b"), "A", needs=["b"]),
        cell(Step("reference"), "B"),
        cell(Step("compared", reference="file"), "C", optional_needs=["reference"]),
    ]
    failing = ("a", "reference")
    executor = ScriptedExecutor(
        reply=lambda order: Failed(order.id, "it broke") if name_of(order.jobs[0]) in failing else done(order)
    )
    executor, events, store = run_cells(tmp_path, cells, executor)
    reason = "no divergence, because B could not be measured: it broke"
    assert unfinished(events) == {
        "A/a": ("failed", "it broke"),
        "A/b": ("skipped", "needs A/a, which failed"),
        "A/of b": ("skipped", "needs A/a, which failed"),
        "B/reference": ("failed", "it broke"),
        "C/compared": ("skipped", reason),
    }
    assert executor.orders[-1].jobs == (Step("compared"),)  # without its reference
    stored = store.outcomes(["compared"])["compared"]
    assert (stored.status, stored.row, stored.error) == ("skipped", {"text": "compared"}, reason)


def test_after_a_batch_dies_its_jobs_run_one_by_one(tmp_path: Path) -> None:
    cells = [cell(Preparation(name, batched=True), name) for name in "abc"]

    def reply(order: Order) -> Answer:
        died = "b" in [name_of(job) for job in order.jobs]
        return Failed(order.id, "the worker died", died=True) if died else done(order)

    executor, events, _ = run_cells(tmp_path, cells, ScriptedExecutor(reply=reply))
    assert executor.names == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert unfinished(events) == {"b/b": ("failed", "the worker died")}


def test_bad_input_of_an_essential_job_rejects_the_run(tmp_path: Path) -> None:
    executor = ScriptedExecutor(reply=lambda order: Failed(order.id, "no such model", input=True))
    with pytest.raises(InputError, match="no such model"):
        run_cells(tmp_path, [cell(Preparation("a", batched=True))], executor)


def test_two_jobs_run_at_once_but_not_with_an_exclusive_job_or_on_the_same_variant(tmp_path: Path) -> None:
    cells = [
        one
        for variant in "ABC"
        for one in (
            cell(ExclusiveStep(f"{variant} speed"), variant),
            cell(Step(f"{variant} text"), variant),
            cell(Step(f"{variant} task"), variant),
        )
    ]
    executor, _, _ = run_cells(tmp_path, cells, ScriptedExecutor(slots=2))
    assert max(map(len, executor.log)) == 2
    for running in executor.log:
        assert len(running) == 1 or not any("speed" in name for name in running)
        assert len({name[0] for name in running}) == len(running)
    assert executor.names[:3] == [["A speed"], ["B speed"], ["C speed"]]


def test_one_file_is_fetched_ahead_of_the_one_that_all_its_variants_use(tmp_path: Path) -> None:
    cells = []
    for file, variants in (("a", "AX"), ("b", "B"), ("c", "C")):
        cells.append(cell(Fetch(f"fetch {file}"), variants[0]))
        for name in variants:
            cells.append(cell(ExclusiveStep(f"{name} speed"), name, needs=[f"fetch {file}"]))
            cells.append(cell(Step(f"{name} text"), name, needs=[f"fetch {file}"]))
    executor, events, _ = run_cells(tmp_path, cells)
    for running in executor.log:
        assert len(running) == 1 or not any("speed" in name for name in running)
    order = [(event.event, event.cell) for event in events]
    assert order.index(("cell_started", "B/fetch b")) < order.index(("cell_done", "A/A text"))
    assert order.index(("cell_done", "X/X text")) < order.index(("cell_started", "C/fetch c"))
    assert order.index(("cell_started", "C/fetch c")) < order.index(("cell_done", "B/B text"))


def test_results_can_add_cells(tmp_path: Path) -> None:
    def next_cells(ended: Cell, result: Result) -> Iterable[Cell]:
        assert isinstance(result, StepResult)
        rounds = int(result.text.partition(" ")[2])
        return [cell(Step(f"round {rounds + 1}"), needs=[ended.key])] if rounds < 4 else []

    def stop(event: Event) -> None:
        if event.event == "cell_started" and event.cell == "V/round 3":
            request_pause(tmp_path)

    with pytest.raises(Paused):
        run_cells(tmp_path, [cell(Step("round 1"))], next_cells=next_cells, on_event=stop)
    executor, _, store = run_cells(tmp_path, [cell(Step("round 1"))], next_cells=next_cells)
    assert executor.names == [["round 4"]]  # it resumes where it stopped
    assert set(store.outcomes([f"round {i}" for i in range(1, 6)])) == {f"round {i}" for i in range(1, 5)}


def test_a_pause_lets_running_cells_end_and_starts_no_others(tmp_path: Path) -> None:
    cells = [cell(Step(name), name) for name in "abc"]
    executor = ScriptedExecutor()
    pause_at_start = lambda event: request_pause(tmp_path) if event.event == "cell_started" else None  # noqa: E731
    with pytest.raises(Paused):
        run_cells(tmp_path, cells, executor, on_event=pause_at_start)
    assert executor.names == [["a"]]
    assert executor.paused
    executor, _, _ = run_cells(tmp_path, cells)
    assert executor.names == [["b"], ["c"]]


def test_a_pause_that_is_withdrawn_while_a_cell_runs_has_no_effect(tmp_path: Path) -> None:
    executor = ScriptedExecutor()
    asked: list[bool] = []

    class Slow(_LateExecutor):
        def answer(self, timeout: float) -> Answer | None:
            asked.append(executor.paused)
            if len(asked) == 1:
                request_pause(tmp_path)
                return None
            if len(asked) == 2:
                withdraw_pause(tmp_path)
                return None
            return executor.answer(timeout)

    cells = [cell(Step(name), name) for name in "ab"]
    run_cells(tmp_path, cells, Slow(executor))  # type: ignore[arg-type]
    assert executor.names == [["a"], ["b"]]
    assert asked == [False, True, False, False]


def test_only_what_needs_a_cancelled_cell_is_skipped_and_the_others_of_its_batch_are_made(tmp_path: Path) -> None:
    cells = [cell(Preparation(name, batched=True), name) for name in "abc"]
    cells += [cell(Step("of b"), "b", needs=["b"]), cell(Step("of c"), "c", needs=["c"], optional_needs=["of b"])]
    cancelled: list[str] = []

    def on_event(event: Event) -> None:
        if event.cell == "c/c" and event.event == "cell_started" and not cancelled:
            cancelled.append("b/b")
            request_cancel(tmp_path, "b/b")

    executor = ScriptedExecutor()
    executor.reply = lambda order: (
        Failed(order.id, "killed", died=True) if order.id in executor.cancelled else done(order)
    )
    executor, events, store = run_cells(tmp_path, cells, _LateExecutor(executor), on_event=on_event)  # type: ignore[arg-type]
    why = "needs b/b, which was cancelled"
    assert unfinished(events) == {
        "b/b": ("cancelled", CANCELLED),
        "b/of b": ("skipped", why),
        "c/of c": ("skipped", f"no divergence, because b could not be measured: {why}"),
    }
    assert [event.cell for event in events if event.event == "cell_done"] == ["a/a", "c/c"]
    assert store.statuses(["a", "b", "of b", "of c"]) == {
        "a": "ok", "b": "cancelled", "of b": "skipped", "of c": "skipped",
    }  # fmt: skip
    assert run_cells(tmp_path, cells)[0].names == [["b"], ["of b"], ["of c"]]  # the next start runs them


class _LateExecutor:
    """Returns no answer the first time, so that there is time to cancel."""

    def __init__(self, executor: ScriptedExecutor) -> None:
        self._executor, self._asked = executor, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def answer(self, timeout: float) -> Answer | None:
        self._asked += 1
        return None if self._asked == 1 else self._executor.answer(timeout)


def test_a_variant_is_done_when_all_its_cells_have_ended(tmp_path: Path) -> None:
    cells = [cell(Preparation("a"), "A"), cell(Step("of a"), "A", needs=["a"]), cell(Step("of b"), "B", needs=["a"])]
    on_variant_done: list[str] = []
    run_cells(tmp_path, cells, on_variant_done=on_variant_done.append)
    assert on_variant_done == ["A", "B"]


def test_a_stored_cell_runs_again_only_if_its_file_is_missing_and_needed(tmp_path: Path) -> None:
    cells = [cell(Preparation("a", file="a.bin"), "A"), cell(Step("of a"), "A", needs=["a"])]
    (tmp_path / "a.bin").touch()
    run_cells(tmp_path, cells)
    assert run_cells(tmp_path, cells)[0].names == []
    (tmp_path / "a.bin").unlink()
    assert run_cells(tmp_path, cells)[0].names == []
    extended = [*cells, cell(Step("extended of a"), "A", needs=["a"])]
    assert run_cells(tmp_path, extended)[0].names == [["a"], ["extended of a"]]


def alike(job: Step, *variants: str) -> list[Cell]:
    return [cell(job, variant) for variant in variants]


def test_cells_with_the_same_key_run_once_and_end_together(tmp_path: Path) -> None:
    cells = [
        *alike(Preparation("file", batched=True, file="f"), "A", "B", "C"),
        *(cell(Step("text"), variant, ["file"]) for variant in "ABC"),
        cell(Step("images"), "B", ["file"]),
    ]
    finished: list[str] = []
    executor, events, store = run_cells(tmp_path, cells, on_variant_done=finished.append)
    assert executor.names == [["file"], ["text"], ["images"]]
    same = {one.cell: (one.data["same_as"], one.data["seconds"]) for one in events if "same_as" in one.data}
    assert same == {
        "B/file": ("A/file", 0.0), "C/file": ("A/file", 0.0), "B/text": ("A/text", 0.0), "C/text": ("A/text", 0.0),
    }  # fmt: skip
    assert [one.cell for one in events if one.event == "cell_done"].count("B/text") == 1
    assert sorted(finished) == ["A", "B", "C"]
    assert store.outcomes(["text"])["text"].status == "ok"


def test_cells_with_the_same_key_never_run_at_the_same_time(tmp_path: Path) -> None:
    executor, _, _ = run_cells(tmp_path, alike(Step("text"), "A", "B"), ScriptedExecutor(slots=2))
    assert executor.names == [["text"]]


def test_cells_with_the_same_key_fail_together(tmp_path: Path) -> None:
    executor = ScriptedExecutor(reply=lambda order: Failed(order.id, "broken", 1.0))
    cells = [*alike(Step("text"), "A", "B"), cell(Step("after"), "B", ["text"])]
    executor, events, _ = run_cells(tmp_path, cells, executor)
    assert executor.names == [["text"]]
    assert unfinished(events) == {
        "A/text": ("failed", "broken"),
        "B/text": ("failed", "broken"),
        "B/after": ("skipped", "needs A/text, which failed: broken"),
    }


def test_a_file_that_was_removed_meanwhile_is_made_again_for_added_cells(tmp_path: Path) -> None:
    """Although a cell with its key has ended in this run."""
    made, first = cell(Preparation("file", file="f")), cell(Step("first"), needs=["file"])
    again = cell(Step("again"), needs=["file"])
    for folder in ("last", "next"):
        (tmp_path / folder).mkdir()
    executor, _, _ = run_cells(tmp_path / "last", [made], last_cells=lambda: [again])
    assert executor.names == [["file"], ["file"], ["again"]]
    executor, _, _ = run_cells(tmp_path / "next", [made, first], next_cells=lambda ended, _: [again][ended != first :])
    assert executor.names == [["file"], ["first"], ["file"], ["again"]]
