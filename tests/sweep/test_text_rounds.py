"""Texts that are measured in rounds: real jobs of tiny models under the scheduler, in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import InProcess
from plans import planned, text_file

from converters.errors import InputError
from sweep.analysis.compare import compare
from sweep.analysis.record_differences import compare_records
from sweep.analysis.record_files import of_records
from sweep.backends.llama import LlamaBackend
from sweep.endings import Ending
from sweep.events import Event
from sweep.execution.control import Paused, request_pause
from sweep.execution.scheduler import Scheduler
from sweep.jobs.base import Site
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.text import TextJob
from sweep.jobs.text_rounds import TextRoundsJob
from sweep.measure.perplexity import cut_windows
from sweep.measure.reference import open_reference
from sweep.measure.text_measurement import measure_text
from sweep.record import Record
from sweep.results.later_cells import cells_after, possible_cells
from sweep.results.plan import Plan
from sweep.results.progress import RunProgress
from sweep.results.records import records
from sweep.results.store import Outcome, Store
from sweep.results.text_rounds import possible_rounds, rounds_for_order
from sweep.statistics.stopping import ALL_UNITS, StopRule, looks
from sweep.workspace import Workspace

WINDOW, RESOURCES = 128, ComputeResources(1)
SETTINGS = Settings(window=WINDOW, ctx=512, batch=512, ubatch=256)
NAMES = ("BF16", "Q8_0", "Q4_K_M")


@pytest.fixture(scope="module")
def models(make_model: Any, tiny: Any) -> dict[str, Path]:
    """Three models of one shape: the second is near the first, the third is farther from it."""
    shape = {
        "n_vocab": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 640,
    }  # fmt: skip
    others = {name: make_model(name, scale=scale, **shape).gguf for name, scale in (("near", 0.081), ("far", 0.083))}
    return dict(zip(NAMES, (tiny.gguf, others["near"], others["far"]), strict=True))


@pytest.fixture
def root(tmp_path: Path, models: dict[str, Path]) -> Path:
    folder = tmp_path / "w" / "artefacts" / "m"
    folder.mkdir(parents=True)
    for name, file in models.items():
        shutil.copy(file, folder / f"m-{name}.gguf")
    return tmp_path / "w"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """Every window that was decoded, with the file of the model, except one by one for the noise floor."""
    seen: list[tuple[str, bytes]] = []
    plain, paths = LlamaBackend.windows, dict[LlamaBackend, str]()
    opened = LlamaBackend.__init__

    def init(self: LlamaBackend, path: Path, *args: Any) -> None:
        paths[self] = str(path)
        opened(self, path, *args)

    def windows(self: LlamaBackend, tokens: Any, *args: Any, **options: Any) -> Iterator[Any]:
        if options.get("parallel") != 1:
            seen.extend((paths[self], row.tobytes()) for row in tokens)
        return plain(self, tokens, *args, **options)

    monkeypatch.setattr(LlamaBackend, "__init__", init)
    monkeypatch.setattr(LlamaBackend, "windows", windows)
    return seen


def plan_for(root: Path, rule: StopRule | None, n_words: int = 4000) -> Plan:
    rng = np.random.default_rng(0)
    words = ("boats", "gulls", "the keeper", "12 apples", "def f(x):", "café", "and then", "left", "counted")
    text = text_file(root / "words.txt", " ".join(rng.choice(words, n_words)) + ".")
    plan = planned(*NAMES, text=text, settings=SETTINGS, resources=RESOURCES, stop_rule=rule)
    return replace(plan, cells=tuple(replace(c, needs=()) for c in plan.cells if isinstance(c.job, TextJob)))


def run(root: Path, plan: Plan, on_event: Any = lambda _: None) -> tuple[list[Record], list[Event]]:
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        on_event(event)

    directory = root / "runs" / plan.run
    directory.mkdir(parents=True, exist_ok=True)
    with Store(root / "sweep.db") as store:
        store.add_run(plan.run, plan.to_json())
        executor = InProcess(root, RESOURCES)
        scheduler = Scheduler(plan.cells, store, executor, root, directory, emit)
        scheduler.next_cells = partial(cells_after, plan, store)
        scheduler.last_cells = partial(rounds_for_order, plan, store)
        scheduler.run(plan.run)
        return records(plan, store), events


def started(events: list[Event]) -> list[str]:
    return [str(event.cell) for event in events if event.event == "cell_started"]


def test_variants_are_measured_until_their_divergence_is_precise_and_no_window_twice(
    root: Path, decoded: list[tuple[str, bytes]], models: dict[str, Path]
) -> None:
    plan = plan_for(root, StopRule(precision=0.1, bounds=(0.02,), decisions=3))
    rows, events = run(root, plan)
    by_name = {row.variant: row.stopping["text"] for row in rows}
    total = by_name["BF16"].of
    assert total > 100
    assert by_name["BF16"].samples == max(one.samples for one in by_name.values())
    assert all(one.samples in looks(total) and one.stopped for one in by_name.values())
    assert min(one.samples for one in by_name.values()) < total
    assert len(decoded) == len(set(decoded)) == sum(one.samples for one in by_name.values())
    assert started(events)[:2] == ["BF16/text", "Q8_0/text"]
    progress = RunProgress.of(plan.cells, possible_cells(plan))
    for event in events:
        progress.update(event)
    assert all(cell.status == "done" for cell in progress.cells.values())
    assert len(progress.cells) == len(started(events))

    # the figures are those of these windows, measured in one go
    site = Site(root, RESOURCES)
    reference, variant = (plan.cells_of(name)[0].job for name in ("BF16", "Q4_K_M"))
    assert isinstance(reference, TextRoundsJob)
    backend = site.open(reference.model)
    windows = cut_windows(backend, (root / "words.txt").read_text(), n_ctx=WINDOW).in_random_order()
    windows = windows.head(by_name["Q4_K_M"].samples)
    measure_text(backend, windows, write_reference=root / "r")
    assert isinstance(variant, TextRoundsJob)
    expected = measure_text(site.open(variant.model), windows, reference=open_reference(root / "r")).divergence
    found = {row.variant: row for row in rows}["Q4_K_M"].divergence
    assert expected is not None
    assert found is not None
    assert found.kld_mean == pytest.approx(expected.figures.kld_mean, rel=1e-4)
    assert found.kld_percentiles["50"] == pytest.approx(expected.figures.kld_percentiles["50"], rel=1e-3)
    assert found.noise_floor is not None


def test_an_interrupted_run_ends_with_the_same_figures_and_more_precision_goes_on(
    root: Path, tmp_path: Path, decoded: list[tuple[str, bytes]]
) -> None:
    plan = plan_for(root, StopRule(precision=0.1, bounds=(0.02,), decisions=3))

    def stop(event: Event) -> None:
        if event.event == "cell_done" and event.cell == "Q8_0/text":
            request_pause(root / "runs" / plan.run)

    with pytest.raises(Paused):
        run(root, plan, stop)
    rows, _ = run(root, plan)
    assert len(decoded) == len(set(decoded))
    assert run(root, plan)[1][-1].event == "started"  # nothing is left to do
    counts = [len(decoded)]
    for more in (StopRule(precision=0.05, bounds=(0.02,), decisions=3), ALL_UNITS):
        further, _ = run(root, plan_for(root, more))
        counts.append(sum(row.stopping["text"].samples for row in further))
        assert len(decoded) == len(set(decoded)) == counts[-1]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == len(NAMES) * rows[0].stopping["text"].of

    shutil.rmtree(root / "runs")
    for folder in (root / "artefacts" / "m").glob("rounds-*"):
        shutil.rmtree(folder)
    (root / "sweep.db").unlink()
    assert [row.to_json() for row in run(root, plan)[0]] == [row.to_json() for row in rows]


def test_a_variant_whose_reference_failed_has_a_perplexity_and_leaves_nothing_behind(root: Path) -> None:
    plan = plan_for(root, StopRule(precision=0.1))
    job = plan.cells_of("Q8_0")[0].job.without_reference()
    assert isinstance(job, TextRoundsJob)
    result = job.run(Site(root, RESOURCES))
    assert (result.divergence, result.next_look, result.windows) == (None, None, 32)
    rows, _ = run(root, plan)
    assert all(row.divergence is not None for row in rows if row.variant != "BF16")


def test_a_further_round_that_failed_leaves_the_figures_of_the_rounds_before(root: Path) -> None:
    plan = plan_for(root, StopRule(precision=0.1))
    rows, _ = run(root, plan)
    later = next(cell for cell in possible_rounds(plan) if cell.variant == "Q4_K_M")
    with Store(root / "sweep.db") as store:
        store.put(later.key, Outcome(Ending.CANCELLED, None, "cancelled", 1.0))
        row = next(row for row in records(plan, store) if row.variant == "Q4_K_M")
    assert (row.status, row.unfinished) == ("partial", {"text, round 2": "cancelled"})
    assert replace(row, status="ok", error=None, unfinished={}) == rows[2]


def test_figures_of_different_numbers_of_windows_are_compared_over_the_shared_ones(root: Path) -> None:
    rows, _ = run(root, plan_for(root, StopRule(precision=0.5)))
    near = next(row.divergence.kld_mean for row in rows if row.variant == "Q4_K_M" and row.divergence is not None)
    rows, _ = run(root, plan_for(root, StopRule(bounds=(1.02 * near,))))  # Q4_K_M is so near that it needs more windows
    by_name = {row.variant: row for row in rows}
    assert len({row.stopping["text"].samples for row in rows}) > 1
    assert {row.samples["nll"].units for row in rows} == {by_name["BF16"].samples["nll"].units}
    for name in NAMES[1:]:
        row, reference = by_name[name], by_name["BF16"]
        assert row.divergence is not None
        assert row.perplexity is not None
        assert reference.perplexity is not None
        shared = row.samples["nll"].values.size
        ratio = np.exp(row.samples["nll"].values.mean() - reference.samples["nll"].values[:shared].mean())
        assert row.divergence.perplexity_ratio == pytest.approx(ratio, rel=1e-4)
        assert row.perplexity.value == pytest.approx(reference.perplexity.value * ratio, rel=1e-4)


def test_distributions_that_are_gone_are_made_again_when_a_variant_needs_them(
    root: Path, decoded: list[tuple[str, bytes]]
) -> None:
    run(root, plan_for(root, StopRule(precision=0.2)))
    before = len(decoded)
    for folder in (root / "artefacts" / "m").glob("rounds-*.logprobs"):
        shutil.rmtree(folder)  # as --keep none does
    rows, _ = run(root, plan_for(root, ALL_UNITS))
    total = rows[0].stopping["text"].of
    assert all(row.stopping["text"].samples == total and row.status == "ok" for row in rows)
    assert sum(path.endswith("BF16.gguf") for path, _ in decoded[before:]) == total
    variants = [one for one in decoded if not one[0].endswith("BF16.gguf")]
    assert len(variants) == len(set(variants)) == (len(NAMES) - 1) * total


def test_a_run_in_rounds_is_compared_with_one_in_full_over_the_windows_of_both(root: Path) -> None:
    some, full = plan_for(root, StopRule(precision=0.2)), plan_for(root, None)
    (rows, _), (whole, _) = run(root, some), run(root, full)
    by_name = {row.variant: row.stopping["text"].samples for row in rows}
    assert max(by_name.values()) < whole[0].samples["nll"].values.size
    found = compare(Workspace(root), some.run, full.run)
    assert {(one.variant_a, one.figure) for one in found.text} == {
        *((name, "perplexity") for name in NAMES), *((name, "divergence") for name in NAMES[1:])
    }  # fmt: skip
    for one in found.text:  # both decoded the same windows
        assert one.difference.n == by_name[one.variant_a]
        assert one.a == pytest.approx(one.b, rel=1e-3)
        assert one.difference.stderr < 1e-3 * one.a
    assert all(note.startswith("Compared over the") for note in found.notes)

    pairs = [(name, name) for name in NAMES]
    records = compare_records(of_records("some", rows), of_records("full", whole), pairs).differences
    assert {(one.variant, one.figure) for one in records} == {
        *((name, "perplexity") for name in NAMES), *((name, "KL divergence") for name in NAMES[1:])
    }  # fmt: skip
    for own in records:
        assert own.paired is not None
        assert own.paired.n == by_name[own.variant]
        assert own.delta == pytest.approx(0.0, abs=1e-3 * own.a)
    without = [replace(row, samples={}) for row in whole]
    with pytest.raises(InputError, match="have no figure in common"):
        compare_records(of_records("some", rows), of_records("full", without), pairs)
