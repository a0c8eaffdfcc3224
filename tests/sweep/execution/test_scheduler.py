"""The scheduler goes by what cells need and what may run side by side, whatever executes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.events import Event
from sweep.execution.control import CANCELLED, Paused, ask_cancel, ask_pause
from sweep.execution.protocol import Answer, Failed, Finished, Order
from sweep.execution.scheduler import Scheduler
from sweep.jobs import registry
from sweep.jobs.base import Result, Site, StoredJob
from sweep.jobs.cell import Cell
from sweep.jobs.settings import Where
from sweep.results.store import Store


@dataclass(frozen=True)
class Told(Result):
    words: str = ""


@dataclass(frozen=True)
class Step(StoredJob[Told]):
    """A job that nobody does. `batched` ones are done in one go."""

    kind = "step"
    found = Told

    name: str
    batched: bool = False
    reference: str | None = None
    file: str | None = None

    def identity(self, where: Where) -> Any:
        return ["step", self.name]

    @property
    def makes(self) -> Artefact | None:
        return None if self.file is None else Artefact(self.file)

    @property
    def batch(self) -> str | None:
        return "all" if self.batched else None

    @property
    def essential(self) -> bool:
        return self.batched

    def without_reference(self) -> Step:
        return Step(self.name)

    def run(self, site: Site) -> Told:
        raise NotImplementedError


@dataclass(frozen=True)
class Making(Step):
    kind = "making"
    making = True


@dataclass(frozen=True)
class Timed(Step):
    kind = "timed"
    alone = True


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Step, Making, Timed):
        monkeypatch.setitem(registry._STORED, kind.kind, kind)


@dataclass
class Scripted:
    """An executor whose answers are given by `say`, one after another, those begun first first."""

    slots: int = 1
    say: Callable[[Order], Answer] = lambda order: done(order)
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
        assert len(self._running) <= self.slots

    def expect(self, group: str, log: str) -> None:
        self.expected.append(group)

    def answer(self, timeout: float) -> Answer | None:
        return self.say(self._running.pop(0))

    def cancel(self, id: str) -> None:
        self.cancelled.append(id)

    def pause(self) -> None:
        self.paused = True

    def close(self) -> None:
        self._running.clear()

    @property
    def names(self) -> list[list[str]]:
        """Of the jobs of each order."""
        return [[name_of(job) for job in order.jobs] for order in self.orders]


def name_of(job: Any) -> str:
    return str(job.name)


def done(order: Order) -> Finished:
    return Finished(order.id, tuple(Told(name_of(job)) for job in order.jobs), 1.0, Where(3))


def cell(job: Step, variant: str = "V", needs: Iterable[str] = (), wants: Iterable[str] = ()) -> Cell:
    return Cell(job.name, variant, job.name, job, tuple(needs), tuple(wants))


def carry_out(
    tmp_path: Path, cells: list[Cell], executor: Scripted | None = None, **options: Any
) -> tuple[Scripted, list[Event], Store]:
    executor, events = executor or Scripted(), list[Event]()
    store = Store(tmp_path / "s.db")
    hear = options.pop("hear", lambda _: None)

    def emit(event: Event) -> None:
        events.append(event)
        hear(event)

    Scheduler(cells, store, executor, tmp_path, tmp_path, emit, **options).run("r")
    return executor, events, store


def failures(events: list[Event]) -> dict[str, str]:
    return {str(event.cell): event.data["error"] for event in events if event.event == "cell_failed"}


def test_what_makes_files_goes_first_and_batches_go_together(tmp_path: Path) -> None:
    cells = [
        cell(Making("a", batched=True), "A"),
        cell(Step("read a"), "A", needs=["a"]),
        cell(Making("matrix"), "A", needs=["a"]),
        cell(Making("b", batched=True), "B", needs=["matrix"]),
        cell(Making("c", batched=True), "C", needs=["matrix"]),
        cell(Step("read b"), "B", needs=["b"], wants=["read a"]),
    ]
    executor, events, store = carry_out(tmp_path, cells)
    assert executor.names == [["a"], ["matrix"], ["b", "c"], ["read a"], ["read b"]]
    assert [event.cell for event in events if event.event == "cell_done"] == [
        "A/a", "A/matrix", "B/b", "C/c", "A/read a", "B/read b",
    ]  # fmt: skip
    outcome = store.outcomes(["b"])["b"]
    assert (outcome.status, outcome.seconds, outcome.where) == ("ok", 0.5, Where(3))
    assert executor.expected == ["B"]


def test_what_needs_something_that_failed_fails_and_what_wants_it_does_without(tmp_path: Path) -> None:
    cells = [
        cell(Making("a"), "A"),
        cell(Step("of a"), "A", needs=["a"]),
        cell(Step("reference"), "B"),
        cell(Step("compared", reference="file"), "C", wants=["reference"]),
    ]
    broken = ("a", "reference")
    executor = Scripted(
        say=lambda order: Failed(order.id, "it broke") if name_of(order.jobs[0]) in broken else done(order)
    )
    executor, events, store = carry_out(tmp_path, cells, executor)
    lacking = "no divergence, for B could not be measured: it broke"
    assert failures(events) == {
        "A/a": "it broke",
        "A/of a": "needs what could not be made: it broke",
        "B/reference": "it broke",
        "C/compared": lacking,
    }
    assert executor.orders[-1].jobs == (Step("compared"),)  # without its reference
    kept = store.outcomes(["compared"])["compared"]
    assert (kept.status, kept.row, kept.error) == ("failed", {"words": "compared"}, lacking)


def test_a_batch_that_dies_is_tried_one_by_one(tmp_path: Path) -> None:
    cells = [cell(Making(name, batched=True), name) for name in "abc"]

    def say(order: Order) -> Answer:
        died = "b" in [name_of(job) for job in order.jobs]
        return Failed(order.id, "the worker died", died=True) if died else done(order)

    executor, events, _ = carry_out(tmp_path, cells, Scripted(say=say))
    assert executor.names == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert failures(events) == {"b/b": "the worker died"}


def test_bad_input_of_what_everything_needs_refuses_the_run(tmp_path: Path) -> None:
    executor = Scripted(say=lambda order: Failed(order.id, "no such model", input=True))
    with pytest.raises(InputError, match="no such model"):
        carry_out(tmp_path, [cell(Making("a", batched=True))], executor)


def test_two_work_side_by_side_but_never_beside_what_is_timed_nor_twice_on_one_model(tmp_path: Path) -> None:
    cells = [
        made
        for variant in "ABC"
        for made in (
            cell(Timed(f"{variant} speed"), variant),
            cell(Step(f"{variant} text"), variant),
            cell(Step(f"{variant} task"), variant),
        )
    ]
    executor, _, _ = carry_out(tmp_path, cells, Scripted(slots=2))
    assert max(map(len, executor.log)) == 2
    for running in executor.log:
        assert len(running) == 1 or not any("speed" in name for name in running)
        assert len({name[0] for name in running}) == len(running)
    assert executor.names[:3] == [["A speed"], ["B speed"], ["C speed"]]


def test_a_plan_may_grow_from_its_results(tmp_path: Path) -> None:
    def grow(ended: Cell, result: Result) -> Iterable[Cell]:
        assert isinstance(result, Told)
        rounds = int(result.words.partition(" ")[2])
        return [cell(Step(f"round {rounds + 1}"), needs=[ended.key])] if rounds < 4 else []

    def stop(event: Event) -> None:
        if event.event == "cell_started" and event.cell == "V/round 3":
            ask_pause(tmp_path)

    with pytest.raises(Paused):
        carry_out(tmp_path, [cell(Step("round 1"))], grow=grow, hear=stop)
    executor, _, store = carry_out(tmp_path, [cell(Step("round 1"))], grow=grow)
    assert executor.names == [["round 4"]]  # it goes on where it stopped
    assert set(store.outcomes([f"round {i}" for i in range(1, 6)])) == {f"round {i}" for i in range(1, 5)}


def test_a_pause_lets_what_runs_end_and_begins_nothing_more(tmp_path: Path) -> None:
    cells = [cell(Step(name), name) for name in "abc"]
    executor = Scripted()
    begun = lambda event: ask_pause(tmp_path) if event.event == "cell_started" else None  # noqa: E731
    with pytest.raises(Paused):
        carry_out(tmp_path, cells, executor, hear=begun)
    assert executor.names == [["a"]]
    assert executor.paused
    executor, _, _ = carry_out(tmp_path, cells)
    assert executor.names == [["b"], ["c"]]


def test_a_cancelled_cell_fails_and_the_others_of_its_batch_are_made(tmp_path: Path) -> None:
    cells = [cell(Making(name, batched=True), name) for name in "abc"]
    asked: list[str] = []

    def hear(event: Event) -> None:
        if event.cell == "c/c" and event.event == "cell_started" and not asked:
            asked.append("b/b")
            ask_cancel(tmp_path, "b/b")

    executor = Scripted()
    executor.say = lambda order: (
        Failed(order.id, "killed", died=True) if order.id in executor.cancelled else done(order)
    )
    executor, events, _ = carry_out(tmp_path, cells, _Late(executor), hear=hear)  # type: ignore[arg-type]
    assert failures(events) == {"b/b": CANCELLED}
    assert [event.cell for event in events if event.event == "cell_done"] == ["a/a", "c/c"]


class _Late:
    """Answers nothing the first time, so that there is time to cancel."""

    def __init__(self, executor: Scripted) -> None:
        self._executor, self._asked = executor, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def answer(self, timeout: float) -> Answer | None:
        self._asked += 1
        return None if self._asked == 1 else self._executor.answer(timeout)


def test_a_variant_is_through_when_nothing_of_it_is_left(tmp_path: Path) -> None:
    cells = [cell(Making("a"), "A"), cell(Step("of a"), "A", needs=["a"]), cell(Step("of b"), "B", needs=["a"])]
    through: list[str] = []
    carry_out(tmp_path, cells, through=through.append)
    assert through == ["A", "B"]


def test_what_is_known_is_not_done_again_unless_its_file_is_gone_and_needed(tmp_path: Path) -> None:
    cells = [cell(Making("a", file="a.bin"), "A"), cell(Step("of a"), "A", needs=["a"])]
    (tmp_path / "a.bin").touch()
    carry_out(tmp_path, cells)
    assert carry_out(tmp_path, cells)[0].names == []
    (tmp_path / "a.bin").unlink()
    assert carry_out(tmp_path, cells)[0].names == []
    more = [*cells, cell(Step("more of a"), "A", needs=["a"])]
    assert carry_out(tmp_path, more)[0].names == [["a"], ["more of a"]]
