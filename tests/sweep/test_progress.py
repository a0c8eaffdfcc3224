"""The progress of a run from its events, and the predicted time of a run from earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from stored_runs import Stored, items, measured

from int8.recipe import NAMED
from sweep.artefact import Artefact
from sweep.events import Event
from sweep.jobs.base import StoredJob
from sweep.jobs.cell import Cell
from sweep.jobs.export import ExportJob
from sweep.jobs.inputs import Task, TextFile
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.model import ModelSize
from sweep.jobs.speed import SpeedJob
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob
from sweep.results.estimate import bytes_to_make, predicted_seconds, rough_seconds, total
from sweep.results.progress import RunProgress
from sweep.results.store import Store
from sweep.workspace import Workspace

EXPORT = ExportJob(Artefact("/m"), "m", "Q4_K_M", Artefact("m.gguf"), "f", "Q4_K_M", "e")
QUANTIZE = Int8CheckpointJob(Artefact("/m"), "m", NAMED["sq"], "artefacts", "f", "e")
TEXT = TextJob(measured(), TextFile("words", Artefact("/words"), "w"))
CELLS = [
    Cell("export", "Q4", "export", EXPORT),
    Cell("text", "Q4", "text", TEXT),
    Cell("sums", "Q4", "sums", TaskJob(measured(), Task("sums"))),
]


def progress_of(*pending: str) -> RunProgress:
    progress = RunProgress.of(CELLS)
    progress.update(Event("started", None, {"pending": list(pending), "pid": 7}, time=100.0))
    return progress


def test_cells_of_an_earlier_run_are_known_and_do_not_count_as_work() -> None:
    progress = progress_of("Q4/text", "Q4/sums")
    assert progress.cells["Q4/export"].status == "known"
    assert progress.share == 0.0
    assert progress.seconds_left(now=110.0) is None
    progress.update(Event("cell_started", "Q4/text", {}, time=100.0))
    progress.update(Event("cell_progress", "Q4/text", {"done": 1, "total": 4}, time=105.0))
    assert progress.current is not None
    assert progress.current.label == "Q4/text"
    # A quarter of the text took 5 s, so all of it takes 20 s, and the task, which weighs 3 to its 4, takes 15 s.
    assert progress.share == pytest.approx(5 / 35)
    assert progress.seconds_left(now=105.0) == pytest.approx(30.0)
    progress.update(Event("cell_done", "Q4/text", {"seconds": 9.0}, time=110.0))
    progress.update(Event("cell_skipped", "Q4/sums", {"error": "it broke"}, time=111.0))
    progress.update(Event("done", None, {}, time=111.0))
    assert (progress.status, progress.share, progress.current) == ("done", 1.0, None)
    assert (progress.cells["Q4/sums"].status, progress.cells["Q4/sums"].error) == ("skipped", "it broke")
    assert progress.seconds_left() is None


def test_a_resumed_run_starts_its_progress_again() -> None:
    progress = progress_of("Q4/text")
    progress.update(Event("cell_failed", "Q4/text", {"error": "it broke"}))
    progress.update(Event("interrupted"))
    progress.update(Event("started", None, {"pending": ["Q4/text"]}, time=200.0))
    assert progress.cells["Q4/text"].status == "waiting"
    assert progress.cells["Q4/text"].error is None
    assert (progress.status, progress.started) == ("running", 200.0)


def test_cells_of_another_plan_are_ignored() -> None:
    progress = progress_of("Q9/text", "Q4/text")
    progress.update(Event("cell_done", "Q9/text", {"seconds": 1.0}))
    progress.update(Event("cell_done", "Q4/text", {"seconds": 1.0}))
    assert progress.share == 1.0


def test_time_is_predicted_from_earlier_jobs_of_the_same_kind(tmp_path: object) -> None:
    workspace = Workspace(tmp_path / "w")  # type: ignore[operator]
    workspace.root.mkdir()
    scores = {"BF16": items([1.0, 0.0]), "Q4": items([1.0, 1.0])}
    before = Stored("before", tasks={"sums": scores}, variants=("BF16", "Q4")).put(workspace)
    after = Stored("after", tasks={"sums": {"Q2": None}, "forms": {"Q2": None}}, variants=("Q2",)).put(workspace)
    with Store(workspace.database) as store:
        seconds = predicted_seconds(after, store)
        of_others = predicted_seconds(Stored("x", tasks={"sums": {}}, model="another").put(workspace), store)
    assert seconds == {"Q2/sums": 1.0}  # "forms" never succeeded
    assert total(seconds, ["Q2/sums"]) == 1.0
    assert total(seconds, ["Q2/sums", "Q2/forms"]) is None
    assert of_others == {}
    assert before.model == after.model


def test_a_model_without_runs_takes_the_times_of_models_of_a_similar_size(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.root.mkdir()
    scores = {"Q4": items([1.0])}
    Stored("a", tasks={"sums": scores}, variants=("Q4",), model="one", about={"weights": 2_000}).put(workspace)
    asked = {"tasks": {"sums": {"Q2": None}}, "variants": ("Q2",)}
    close = Stored("b", model="two", about={"weights": 6_000}, **asked).put(workspace)
    distant = Stored("c", model="three", about={"weights": 60_000}, **asked).put(workspace)
    unknown = Stored("d", model="four", **asked).put(workspace)
    with Store(workspace.database) as store:
        assert predicted_seconds(close, store) == {}
        assert rough_seconds(close, store) == {"Q2/sums": 3.0}  # three times the weights
        assert rough_seconds(distant, store) == rough_seconds(unknown, store) == {}


def test_times_of_each_engine_are_predicted_separately(tmp_path: object) -> None:
    workspace = Workspace(tmp_path / "w")  # type: ignore[operator]
    workspace.root.mkdir()
    Stored("before", tasks={"sums": {"Q4": items([1.0])}}, variants=("Q4",)).put(workspace)
    both = ("Q2", "int8:sq")
    after = Stored("after", tasks={"sums": dict.fromkeys(both)}, variants=both).put(workspace)
    with Store(workspace.database) as store:
        assert set(predicted_seconds(after, store)) == {"Q2/sums"}  # llama.cpp's; torch has a time of its own


def test_a_checkpoint_that_two_variants_share_is_counted_once() -> None:
    made = [
        Cell("a", "Q4_K_M", "export", EXPORT),
        Cell("b", "int8:sq", "quantize", QUANTIZE),
        Cell("c", "fq:sq", "text", TEXT, needs=("b",)),
    ]
    sizes = {"Q4_K_M": ModelSize(3, 4.5, 9), "int8:sq": ModelSize(5, 8.5, 9), "fq:sq": ModelSize(5, 8.5, 9)}
    assert bytes_to_make(made, sizes) == 8


# Seconds of the jobs of a real sweep of micro on two busy cores, of a llama.cpp build on the CPU
SWEPT = {
    "speed": (2.2, 3.7, 8.2, 8.4, 7.3, 8.6, 9.2, 6.4),
    "text": (19.3, 31.9, 37.3, 30.2, 36.2, 45.7, 58.5, 36.1),
    "micro_sums": (49.1, 61.8, 66.6, 71.3, 81.2, 72.9, 65.8, 57.1),
    "micro_story": (14.9, 14.4, 17.5, 18.3, 20.0, 19.9, 14.8, 17.9),
    "micro_facts": (2.5, 2.1, 2.6, 3.0, 2.9, 3.1, 2.3, 2.5),
    "micro_form": (7.2, 6.3, 9.3, 7.6, 8.4, 10.2, 6.9, 8.3),
    "micro_code": (16.2, 18.1, 17.1, 16.2, 19.3, 21.8, 15.0, 17.7),
}
VARIANTS = ("BF16", "Q2_K", "Q2_K_XL", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
PAUSE = 1.0  # seconds that a worker takes to start


@dataclass
class Looked:
    """`share`: what the screen shows; `elapsed` and `left`: the truth in seconds; `told`: the estimate of `left`."""

    share: float
    elapsed: float
    left: float
    told: float | None


def simulated(
    variants: int, slower: float | None = None, known: int = 0, workers: int = 1, reports: int = 20
) -> list[Looked]:
    """A run of that many variants, looked at after each event. Earlier runs took `slower` times as long; None: there
    were none. The first `known` variants were measured by an earlier start."""
    jobs: dict[str, StoredJob[Any]] = {"speed": SpeedJob(measured()), "text": TEXT}
    jobs |= {name: TaskJob(measured(), Task(name)) for name in SWEPT if name not in jobs}
    cells = [Cell(f"{v} {name}", v, name, job) for v in VARIANTS[:variants] for name, job in jobs.items()]
    seconds = {f"{v}/{name}": row[i] for name, row in SWEPT.items() for i, v in enumerate(VARIANTS[:variants])}
    todo = [cell.label for cell in cells[known * len(jobs) :]]
    predicted = {} if slower is None else {label: slower * seconds[label] for label in todo}
    events = [Event("started", None, {"pending": todo, "predicted": predicted, "pid": 7}, 0.0)]
    free = [0.0] * workers
    for label in todo:
        at = min(range(workers), key=free.__getitem__)
        begin = free[at] + PAUSE * label.endswith("/speed")
        events.append(Event("cell_started", label, {}, begin))
        parts = 0 if label.endswith("/speed") else reports  # measuring speed reports nothing
        events += [
            Event("cell_progress", label, {"done": i, "total": parts}, begin + seconds[label] * i / parts)
            for i in range(1, parts)
        ]
        free[at] = begin + seconds[label]
        events.append(Event("cell_done", label, {"seconds": seconds[label]}, free[at]))
    end = max(free)
    progress, looks = RunProgress.of(cells), []
    for event in sorted(events, key=lambda event: event.time):
        progress.update(event)
        told = progress.seconds_left(now=event.time)
        looks.append(Looked(progress.share, event.time, end - event.time, told))
    return looks


@pytest.mark.parametrize(
    ("run", "factor"),
    [
        ({"variants": 8}, 1.5),
        ({"variants": 4}, 1.5),
        ({"variants": 3}, 1.75),  # nothing predicts the tasks of the first variant
        ({"variants": 8, "known": 6, "slower": 0.5}, 1.5),
        ({"variants": 3, "slower": 3.0}, 1.5),
        ({"variants": 8, "workers": 2}, 1.5),
        ({"variants": 4, "slower": 1.0, "reports": 1}, 1.5),  # jobs that report nothing before they end
    ],
    ids=str,
)
def test_the_time_left_is_right_within_a_factor_once_a_fifth_is_done(run: dict[str, Any], factor: float) -> None:
    looks = simulated(**run)
    assert all(a.share <= b.share for a, b in pairwise(looks))
    assert (looks[0].share, looks[-1].share, looks[-1].told) == (0.0, 1.0, pytest.approx(0.0))
    total = looks[-1].elapsed
    late = [look for look in looks if 0.2 <= look.elapsed / total <= 0.95]  # two workers do not end together
    for look in late:
        assert look.told is not None
        assert 1 / factor < look.told / look.left < factor, look
        assert abs(look.share - look.elapsed / total) < 0.1, look


def test_cells_that_a_search_leaves_out_are_no_work() -> None:
    speeds = [Cell(name, name, "speed", SpeedJob(measured())) for name in ("small", "large")]
    labels = [cell.label for cell in speeds]
    progress = RunProgress.of(speeds)
    progress.update(Event("started", None, {"pending": labels, "pid": 7}, time=100.0))
    progress.update(Event("cell_done", labels[0], {"seconds": 4.0}, time=104.0))
    assert progress.share < 0.6
    progress.update(Event("cells_dropped", None, {"dropped": labels[1:]}, time=104.0))
    assert (progress.share, progress.todo, list(progress.cells)) == (1.0, 1, labels[:1])


def test_speeds_that_are_measured_again_count_as_work() -> None:
    speed = Cell("speed", "Q4", "speed", SpeedJob(measured()))
    again = Cell("again", "Q4", "speed again", SpeedJob(measured()))
    progress = RunProgress.of([*CELLS, speed], [again])
    assert "Q4/speed again" not in progress.cells
    progress.update(Event("started", None, {"pending": ["Q4/export", "Q4/speed"], "pid": 7}, time=100.0))
    for label, seconds in (("Q4/export", 4.0), ("Q4/speed", 12.0)):
        progress.update(Event("cell_done", label, {"seconds": seconds}, time=100.0 + seconds))
    assert progress.share == 1.0
    progress.update(Event("cells_added", None, {"pending": ["Q4/export", "Q4/speed again"]}, time=116.0))
    assert {label: progress.cells[label].status for label in ("Q4/export", "Q4/speed again")} == dict.fromkeys(
        ("Q4/export", "Q4/speed again"), "waiting"
    )
    assert progress.todo == 3
    assert progress.share < 0.6  # the export and the speed are to do again
    assert progress.seconds_left(now=116.0) is not None
    progress.update(Event("cell_started", "Q4/speed again", {}, time=120.0))
    assert progress.current is not None
    assert progress.current.label == "Q4/speed again"
    for label in ("Q4/export", "Q4/speed again"):
        progress.update(Event("cell_done", label, {"seconds": 12.0}, time=132.0))
    assert progress.share == 1.0
    progress.update(Event("started", None, {"pending": [], "pid": 8}, time=200.0))
    assert "Q4/speed again" not in progress.cells  # it is known only to the run that added it
