"""Where a run stands by its events, and how long one may take by earlier ones."""

from __future__ import annotations

import pytest
from stored_runs import Stored, items

from sweep.events import Event
from sweep.jobs.cell import Cell
from sweep.results.estimate import bytes_to_make, foreseen_seconds, total
from sweep.results.progress import Progress
from sweep.results.store import Store
from sweep.workspace import Workspace

CELLS = [Cell(name, "Q4", kind, name, {}) for kind, name in (("export", "export"), ("text", "text"), ("task", "sums"))]


def begun(*pending: str) -> Progress:
    progress = Progress.of(CELLS)
    progress.take(Event("started", None, {"pending": list(pending), "pid": 7}, time=100.0))
    return progress


def test_what_was_known_before_counts_as_done_and_not_as_work() -> None:
    progress = begun("Q4/text", "Q4/sums")
    assert progress.cells["Q4/export"].status == "known"
    assert progress.share == 0.0
    assert progress.seconds_left(now=110.0) is None
    progress.take(Event("cell_started", "Q4/text", {}, time=100.0))
    progress.take(Event("cell_progress", "Q4/text", {"done": 1, "total": 4}, time=105.0))
    assert progress.current is not None
    assert progress.current.label == "Q4/text"
    assert progress.share == pytest.approx(0.25 * 4 / 6)  # a text weighs twice as much as a task
    assert progress.seconds_left(now=110.0) == pytest.approx(10 * (1 - 1 / 6) / (1 / 6))
    progress.take(Event("cell_done", "Q4/text", {"seconds": 9.0}, time=110.0))
    progress.take(Event("cell_failed", "Q4/sums", {"error": "it broke"}, time=111.0))
    progress.take(Event("done", None, {}, time=111.0))
    assert (progress.status, progress.share, progress.current) == ("done", 1.0, None)
    assert progress.cells["Q4/sums"].error == "it broke"
    assert progress.seconds_left() is None


def test_a_run_that_goes_on_begins_anew() -> None:
    progress = begun("Q4/text")
    progress.take(Event("cell_failed", "Q4/text", {"error": "it broke"}))
    progress.take(Event("interrupted"))
    progress.take(Event("started", None, {"pending": ["Q4/text"]}, time=200.0))
    assert progress.cells["Q4/text"].status == "waiting"
    assert progress.cells["Q4/text"].error is None
    assert (progress.status, progress.started) == ("running", 200.0)


def test_cells_of_another_plan_are_passed_over() -> None:
    progress = begun("Q9/text", "Q4/text")
    progress.take(Event("cell_done", "Q9/text", {"seconds": 1.0}))
    progress.take(Event("cell_done", "Q4/text", {"seconds": 1.0}))
    assert progress.share == 1.0


def test_time_is_foreseen_from_what_its_like_took(tmp_path: object) -> None:
    workspace = Workspace(tmp_path / "w")  # type: ignore[operator]
    workspace.root.mkdir()
    scores = {"BF16": items([1.0, 0.0]), "Q4": items([1.0, 1.0])}
    before = Stored("before", tasks={"sums": scores}, variants=("BF16", "Q4")).put(workspace)
    after = Stored("after", tasks={"sums": {"Q2": None}, "forms": {"Q2": None}}, variants=("Q2",)).put(workspace)
    with Store(workspace.database) as store:
        seconds = foreseen_seconds(after, store)
        of_others = foreseen_seconds(Stored("x", tasks={"sums": {}}, model="another").put(workspace), store)
    assert seconds == {"Q2/sums": 1.0}  # forms never ended well
    assert total(seconds, ["Q2/sums"]) == 1.0
    assert total(seconds, ["Q2/sums", "Q2/forms"]) is None
    assert of_others == {}
    assert before.model == after.model


def test_engines_are_foreseen_apart(tmp_path: object) -> None:
    workspace = Workspace(tmp_path / "w")  # type: ignore[operator]
    workspace.root.mkdir()
    Stored("before", tasks={"sums": {"Q4": items([1.0])}}, variants=("Q4",)).put(workspace)
    both = ("Q2", "int8:sq")
    after = Stored("after", tasks={"sums": dict.fromkeys(both)}, variants=both).put(workspace)
    with Store(workspace.database) as store:
        assert set(foreseen_seconds(after, store)) == {"Q2/sums"}  # of llama.cpp; torch takes its own time


def test_a_checkpoint_that_two_variants_read_is_made_once() -> None:
    made = [
        Cell("a", "Q4_K_M", "export", "export", {"quant": "Q4_K_M"}),
        Cell("b", "int8:sq", "quantize", "quantize", {}),
        Cell("c", "fq:sq", "text", "text", {}, needs=("b",)),
    ]
    sizes = {"Q4_K_M": {"file_bytes": 3.0}, "int8:sq": {"file_bytes": 5.0}, "fq:sq": {"file_bytes": 5.0}}
    assert bytes_to_make(made, sizes) == 8
