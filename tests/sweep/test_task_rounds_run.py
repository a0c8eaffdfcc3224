"""Tasks that are run in rounds by the variants of a sweep: real jobs with a model of fixed answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from in_process import InProcess
from letters_backend import LettersBackend
from plans import planned

from sweep.execution.scheduler import Scheduler
from sweep.jobs.base import Site
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import ComputeResources
from sweep.jobs.task import TaskJob
from sweep.record import Record
from sweep.results.plan import Plan
from sweep.results.records import records
from sweep.results.store import Store
from sweep.statistics import ALPHA
from sweep.statistics.task_stopping import TaskStopRule

TOTAL, NAMES = 320, ("BF16", "Q8_0", "Q2_K")
TASK = """task: t
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["right", "wrong"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""


class Model(LettersBackend):
    """Answers rightly, but for every fifth item and, as Q2_K, for a third of the others."""

    asked_requests: dict[str, int]

    def __init__(self, name: str, counts: dict[str, int]) -> None:
        super().__init__()
        self.name, self.counts = name, counts

    def loglikelihoods(self, requests: Any, progress: Any = None) -> Any:
        self.counts[self.name] = self.counts.get(self.name, 0) + (len(requests) if len(requests) > 2 else 0)
        found = super().loglikelihoods(requests, progress)
        return [replace(score, logprob=self._logprob(one)) for score, one in zip(found, requests, strict=True)]

    def _logprob(self, request: Any) -> float:
        number = int(self.detokenize(request.context).split()[-1])
        fails = number % 5 == 0 or (self.name == "Q2_K" and number % 3 == 0)
        return -1.0 if ("wrong" in self.detokenize(request.continuation)) == fails else -2.0

    def close(self) -> None: ...


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The requests that each variant was asked, without those that are asked twice to check shared prefixes."""
    found: dict[str, int] = {}

    def opened(self: Site, model: MeasuredModel) -> Model:
        return Model(model.file.name.removesuffix(".gguf").rpartition("-")[2], found)

    monkeypatch.setattr(Site, "open", opened)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"question": f"number {i}"}) for i in range(TOTAL)))
    (tmp_path / "t.yaml").write_text(TASK.replace("ROWS", str(rows)))
    return tmp_path


def plan_for(folder: Path, rule: TaskStopRule | None) -> Plan:
    plan = planned(*NAMES, task="t", task_rule=rule, task_folder=folder, resources=ComputeResources(1))
    return replace(plan, cells=tuple(replace(c, needs=()) for c in plan.cells if isinstance(c.job, TaskJob)))


def run(root: Path, plan: Plan, executor: InProcess | None = None) -> dict[str, Record]:
    directory = root / "runs" / plan.run
    directory.mkdir(parents=True, exist_ok=True)
    with Store(root / "sweep.db") as store:
        executor = executor or InProcess(root, plan.resources)
        Scheduler(plan.cells, store, executor, root, directory, lambda _: None).run(plan.run)
        return {record.variant: record for record in records(plan, store)}


def test_a_variant_answers_as_many_items_as_its_comparison_needs(folder: Path, counts: dict[str, int]) -> None:
    root = folder / "w"
    rows = run(root, plan_for(folder, TaskStopRule(2)))
    assert rows["BF16"].tasks["t"].n == TOTAL
    assert "t" not in rows["BF16"].stopping
    near, far = rows["Q8_0"], rows["Q2_K"]
    assert near.stopping["t"].samples < near.stopping["t"].of / 2 == TOTAL / 2
    assert near.stopping["t"].stopped == "cannot become a loss"
    assert (near.tasks["t"].delta, near.tasks["t"].p_holm) == (0.0, 1.0)
    assert near.tasks["t"].value == rows["BF16"].tasks["t"].value == 0.8  # not the share of its own items
    assert far.stopping["t"].samples < TOTAL
    assert far.stopping["t"].stopped == "a loss is certain"
    assert far.tasks["t"].p_holm is not None
    assert far.tasks["t"].p_holm < ALPHA
    assert far.tasks["t"].value == pytest.approx(0.8 + far.tasks["t"].delta)
    assert counts == {"BF16": 2 * TOTAL, "Q8_0": 2 * near.stopping["t"].samples, "Q2_K": 2 * far.stopping["t"].samples}


def test_no_item_is_answered_twice(folder: Path, counts: dict[str, int]) -> None:
    root = folder / "w"
    first = run(root, plan_for(folder, TaskStopRule(2)))
    asked = dict(counts)
    assert run(root, plan_for(folder, TaskStopRule(2))) == first
    assert counts == asked
    run(root, plan_for(folder, TaskStopRule(3)))  # another rule, because a variant was added
    assert counts["Q8_0"] == asked["Q8_0"]
    full = run(root, plan_for(folder, None))
    assert counts == dict.fromkeys(NAMES, 2 * TOTAL)
    assert [full[name].tasks["t"].n for name in NAMES] == [TOTAL] * 3
    assert full["Q2_K"].tasks["t"].value == pytest.approx(0.8 * 2 / 3, abs=0.01)
    assert full["Q2_K"].stopping == {}


def test_without_its_reference_a_variant_answers_all_items(
    folder: Path, counts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweep.execution.protocol import Answer, Failed

    class FailsFirst(InProcess):
        failed = False

        def answer(self, timeout: float) -> Answer | None:
            if not self.failed:
                self.failed = True
                return Failed(self.orders.pop(0).id, "no memory", 0.1)
            return super().answer(timeout)

    rows = run(folder / "w", plan_for(folder, TaskStopRule(2)), FailsFirst(folder / "w", ComputeResources(1)))
    assert rows["BF16"].status == "failed"
    assert rows["Q8_0"].status == "ok"
    assert rows["Q8_0"].tasks["t"].n == TOTAL
    assert rows["Q8_0"].tasks["t"].p_value is None
