"""The progress of a run from its events, and the predicted time of a run from earlier ones."""

from __future__ import annotations

import pytest
from stored_runs import Stored, items, measured

from int8.recipe import NAMED
from sweep.artefact import Artefact
from sweep.events import Event
from sweep.jobs.cell import Cell
from sweep.jobs.export import ExportJob
from sweep.jobs.inputs import Task, TextFile
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.model import ModelSize
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob
from sweep.results.estimate import bytes_to_make, predicted_seconds, total
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
    assert progress.share == pytest.approx(0.25 * 4 / 6)  # a text weighs twice as much as a task
    assert progress.seconds_left(now=110.0) == pytest.approx(10 * (1 - 1 / 6) / (1 / 6))
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
