"""Records from stored results: paired figures, Holm's correction, clustered standard errors, samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_runs import Stored, items

from int8.recipe import NAMED
from ptq.recipe import recipe as ptq_recipe
from sweep import statistics
from sweep.analysis.figures import mean_recovery
from sweep.analysis.run_candidates import advise_on_records
from sweep.analysis.trust import trust_notes
from sweep.artefact import Artefact
from sweep.cli.run_output import exit_code_of
from sweep.items import Item
from sweep.jobs import serialization
from sweep.jobs.cell import Cell
from sweep.jobs.export import ExportJob
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.ptq_checkpoint import PtqCheckpointJob
from sweep.record import Record
from sweep.results.history import past_runs
from sweep.results.records import records
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace

N = 80
RIGHT = np.repeat([1.0, 0.0], [60, 20])


def lost(count: int) -> np.ndarray:
    return np.where(np.arange(N) < count, 0.0, RIGHT)


def records_of(tmp_path: Path, stored: Stored) -> dict[str, Record]:
    space = Workspace(tmp_path)
    plan = stored.put(space)
    with Store(space.database) as store:
        return {record.variant: record for record in records(plan, store)}


def test_paired_figures_are_corrected_over_all_tests_of_the_run(tmp_path):
    """Holm's correction covers every compared variant and task of the run, without the reference."""
    tasks = {
        "t": {"BF16": items(RIGHT), "Q4": items(lost(3)), "Q2": items(lost(14))},
        "u": {"BF16": items(RIGHT), "Q4": items(lost(0)), "Q2": None},
        "other": {"BF16": items(RIGHT), "Q4": items(lost(9), prompt="chat")},  # the prompts differ
    }
    found = records_of(tmp_path, Stored("r", tasks))
    expected = statistics.compare_items(RIGHT, lost(3))
    score = found["Q4"].tasks["t"]
    assert (score.delta, score.delta_stderr, score.p_value) == (
        expected.delta,
        expected.delta_stderr,
        expected.p_value,
    )
    assert (score.delta_low, score.delta_high) == (expected.low, expected.high)
    assert (score.flips, score.answers_changed) == (3 / N, 3 / N)
    family = [found["Q4"].tasks["t"], found["Q4"].tasks["u"], found["Q2"].tasks["t"]]
    adjusted = statistics.holm([score.p_value for score in family])
    assert [score.p_holm for score in family] == pytest.approx(adjusted.tolist())
    for alone in (found["BF16"].tasks["t"], found["Q4"].tasks["other"]):
        assert (alone.delta, alone.p_value, alone.p_holm, alone.answers_changed) == (None, None, None, None)


def test_standard_errors_of_a_group_are_clustered_by_subject(tmp_path):
    rng = np.random.default_rng(0)
    subjects = [f"mmlu_{i % 16}" for i in range(480)]
    easy = np.array([i % 16 < 8 for i in range(480)])
    base = (rng.random(480) < np.where(easy, 0.9, 0.4)).astype(float)
    after = np.where(np.array([i % 16 == 2 for i in range(480)]), 0.0, base)

    def grouped(values: np.ndarray) -> list[Item]:
        return [
            Item(i, f"doc{i}", f"p{i}", float(value), "a", subject=subject)
            for i, (subject, value) in enumerate(zip(subjects, values, strict=True))
        ]

    found = records_of(tmp_path, Stored("r", {"mmlu": {"BF16": grouped(base), "Q4": grouped(after)}}))
    score = found["Q4"].tasks["mmlu"]
    assert score.clusters == 16
    assert score.stderr == pytest.approx(statistics.cluster_stderr(after, subjects))
    assert score.stderr > 1.5 * after.std() / np.sqrt(480)  # the subjects have different questions
    assert score.delta_stderr == pytest.approx(statistics.cluster_stderr(after - base, subjects))
    assert statistics.mcnemar(base, after) < 1e-4
    assert score.p_value == 1.0


def test_samples_are_the_windows_and_items_behind_the_figures(tmp_path):
    nll, kld = np.linspace(0.5, 1.0, 30), np.linspace(0.01, 0.02, 30)
    found = records_of(
        tmp_path,
        Stored("r", {"t": {"BF16": items(RIGHT), "Q4": items(lost(3))}}, {"BF16": (nll, None), "Q4": (nll + 0.1, kld)}),
    )
    for variant, expected in (("BF16", np.zeros(30)), ("Q4", kld)):
        assert found[variant].samples["kld"].values == pytest.approx(expected)
        assert found[variant].samples["kld"].units == found["BF16"].samples["nll"].units
    assert found["Q4"].samples["task t"].values.mean() == pytest.approx(found["Q4"].tasks["t"].value)
    assert found["Q4"].samples["task t"].units == found["BF16"].samples["task t"].units
    assert found["Q2"].samples == {}
    assert "samples" not in found["Q4"].to_json()
    assert serialization.from_json(found["Q4"].to_json(), Record) == found["Q4"]


def test_a_file_can_be_the_reference(tmp_path):
    kld = np.linspace(0.01, 0.02, 30)
    text = {"Q4": (kld, kld), "Q2": (kld, 2 * kld)}
    found = records_of(
        tmp_path, Stored("r", {"t": {"Q4": items(RIGHT)}}, text, variants=("Q4", "Q2"), reference="/a/base")
    )
    assert found["Q4"].divergence.noise_floor is None
    assert found["Q4"].tasks["t"].delta is None
    assert found["Q4"].samples["kld"].units == found["Q2"].samples["kld"].units == "/a/base"


def test_a_score_that_is_not_a_number_is_not_compared(tmp_path):
    broken = RIGHT.copy()
    broken[0] = np.inf
    found = records_of(tmp_path, Stored("r", {"t": {"BF16": items(RIGHT), "Q4": items(broken)}}))
    assert found["Q4"].tasks["t"].delta is None


def test_items_with_other_prompts_are_other_units(tmp_path):
    found = records_of(tmp_path, Stored("r", {"t": {"BF16": items(RIGHT), "Q4": items(RIGHT, prompt="chat")}}))
    assert found["Q4"].samples["task t"].units != found["BF16"].samples["task t"].units


@pytest.mark.parametrize(
    ("endings", "status", "code"),
    [
        (("ok", "failed"), "partial", 1),
        (("ok", "cancelled"), "partial", 5),
        (("cancelled", "failed"), "failed", 1),
        (("skipped", "cancelled"), "cancelled", 5),
        (("skipped", "skipped"), "skipped", 0),  # the code comes from what is to blame, a cell of another variant
        (("ok", ""), "pending", 0),
        (("", "cancelled"), "cancelled", 5),
    ],
)
def test_a_record_says_how_cells_without_a_result_ended(tmp_path, endings, status, code):
    workspace = Workspace(tmp_path)
    names = ("s", "t")
    plan = Stored("r", {name: {"Q4": items([1.0, 0.0])} for name in names}, variants=("Q4",)).put(workspace)
    with Store(workspace.database) as store:
        for name, ending, cell in zip(names, endings, plan.cells, strict=True):
            if ending == "":
                store._db.execute("DELETE FROM cells WHERE key = ?", (cell.key,))
            elif ending != "ok":
                store.put(cell.key, Outcome(ending, None, f"{name} {ending}", 1.0))
        (record,) = records(plan, store)
    assert record.status == status
    assert record.unfinished == {n: e for n, e in zip(names, endings, strict=True) if e not in ("ok", "")}
    assert exit_code_of([record]) == code
    (past,) = past_runs(workspace)
    counts = (past.done, past.failed, past.cancelled, past.skipped)
    assert counts == tuple(endings.count(one) for one in ("ok", "failed", "cancelled", "skipped"))


def test_with_a_reference_file_tasks_are_compared_with_its_model_or_with_the_most_bits(tmp_path):
    values = {"BF16": RIGHT, "Q4": lost(3), "Q2": lost(40)}
    workspace = Workspace(tmp_path)
    plan = Stored("r", {"t": {name: items(row) for name, row in values.items()}}, reference="file:base.kld").put(
        workspace
    )
    exports = {"BF16": 16.0, "Q4": 4.5, "Q2": 2.6}
    job = ExportJob(Artefact("/m"), "m", "Q4_K_M", Artefact("m.gguf"), "f", "Q4_K_M", "e")
    cells = tuple(Cell(f"export {variant}", variant, "export", job) for variant in exports)
    with Store(workspace.database) as store:
        none_known = records(plan, store)
        for variant, bits in exports.items():
            result = {"file_bytes": 1000, "bits_per_weight": bits}
            store.put(f"export {variant}", Outcome("ok", result, None, 1.0))
        plan = replace(plan, cells=(*plan.cells, *cells))
        by_bits = {record.variant: record for record in records(plan, store)}
        by_name = {record.variant: record for record in records(replace(plan, made_of="Q4"), store)}
    assert {record.task_reference for record in none_known} == {None}
    for found, base in ((by_bits, "BF16"), (by_name, "Q4")):
        assert {record.task_reference for record in found.values()} == {base}
        assert {record.reference for record in found.values()} == {"file:base.kld"}
        for variant, record in found.items():
            if variant == base:
                assert record.tasks["t"].delta is None
            else:
                assert record.tasks["t"].delta == (values[variant] - values[base]).mean()
    notes_by_bits = " ".join(trust_notes(list(by_bits.values())))
    assert "file:base.kld is a file of probabilities and cannot answer tasks" in notes_by_bits
    assert "compared with those of BF16, which has the most bits per weight" in notes_by_bits
    notes_by_name = " ".join(trust_notes(list(by_name.values())))
    assert "those of Q4, which is the variant that the file was made from" in notes_by_name
    choice = advise_on_records(list(by_bits.values()))
    assert "BF16" not in {one.variant for one in choice.excluded}
    assert "loses" in choice.why_not("Q2")
    assert set(mean_recovery(list(by_bits.values()))) == set(exports)


@pytest.mark.parametrize(
    ("variant", "job"),
    [
        ("gptq:w4g128", PtqCheckpointJob(Artefact("/m"), "micro", ptq_recipe("gptq:w4g128"), "f", "m", "e")),
        ("int8:w8a16", Int8CheckpointJob(Artefact("/m"), "micro", NAMED["w8a16"], "f", "m", "e")),
    ],
)
def test_a_checkpoint_that_could_not_be_measured_has_its_size(tmp_path, variant, job):
    nll = np.linspace(0.5, 1.0, 30)
    space, names = Workspace(tmp_path), ("torch:BF16", variant)
    plan = Stored("r", text={"torch:BF16": (nll, None), variant: None}, variants=names).put(space)
    plan = replace(plan, cells=(*plan.cells, Cell("made", variant, "quantize", job)))
    with Store(space.database) as store:
        store.put(
            "made", Outcome("ok", {"file_bytes": 4_000, "bits_per_weight": 5.1, "calibration": {}}, None, 1.0), []
        )
        record = records(plan, store)[1]
    assert record.variant == variant
    assert (record.status, record.file_bytes, record.bits_per_weight) == ("partial", 4_000, 5.1)
