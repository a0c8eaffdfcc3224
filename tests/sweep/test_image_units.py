"""Questions on one image are one unit: closed forms, and data for which treating them as independent is wrong."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from stored_runs import Stored

from sweep import statistics
from sweep.analysis.figures import subject_notes
from sweep.items import Item
from sweep.record import Record
from sweep.results import paired_items
from sweep.results.records import records
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace

IMAGES, EACH = 12, 5
RUNS = 1000


def items(values: np.ndarray, clusters: list[str], subjects: list[str] | None = None) -> list[Item]:
    named = subjects or ["t"] * len(values)
    rows = zip(values, clusters, named, strict=True)
    return [
        Item(i, f"d{i}", f"p{i}", float(v), "a", None, subject, image) for i, (v, image, subject) in enumerate(rows)
    ]


def records_of(tmp_path: Path, stored: Stored) -> dict[str, Record]:
    space = Workspace(tmp_path)
    plan = stored.put(space)
    with Store(space.database) as store:
        return {record.variant: record for record in records(plan, store)}


def labels(n: int = IMAGES, each: int = EACH) -> list[str]:
    return [f"image {i}" for i in range(n) for _ in range(each)]


def test_images_are_the_units_only_where_they_have_several_questions() -> None:
    values = np.zeros(6)
    several = paired_items.units(items(values, ["a", "a", "b", "b", "", ""]))
    assert (several.kind, several.usable().tolist()) == ("images", [0, 0, 1, 1, 2, 3])
    for alone in ([f"i{n}" for n in range(6)], [""] * 6):
        assert paired_items.units(items(values, alone)).usable() is None
    assert paired_items.units(items(values, ["a"] * 6)).usable() is None  # nothing to compare it with
    subjects = [f"s{i % 10}" for i in range(40)]
    grouped = paired_items.units(items(np.zeros(40), [f"i{i % 20}" for i in range(40)], subjects))
    assert (grouped.kind, grouped.usable().max()) == ("subjects", 9)


def test_figures_of_equally_many_questions_per_image_are_those_of_the_images_means(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = rng.random(IMAGES * EACH)
    after = before - 0.1 + np.repeat(rng.normal(0, 0.1, IMAGES), EACH) + rng.normal(0, 0.02, IMAGES * EACH)
    stored = {"docs": {"BF16": items(before, labels()), "Q4": items(after, labels())}}
    found = records_of(tmp_path, Stored("r", stored))
    score = found["Q4"].tasks["docs"]
    means = (after - before).reshape(IMAGES, EACH).mean(axis=1)
    stderr = means.std(ddof=1) / sqrt(IMAGES)
    half = scipy.stats.t.ppf(0.975, IMAGES - 1) * stderr
    assert (score.clusters, score.cluster_kind, score.n) == (IMAGES, "images", IMAGES * EACH)
    assert score.delta_stderr == pytest.approx(stderr)
    assert (score.delta_low, score.delta_high) == pytest.approx((means.mean() - half, means.mean() + half))
    assert score.p_value == pytest.approx(2 * scipy.stats.t.sf(abs(means.mean()) / stderr, IMAGES - 1))
    sampled = found["Q4"].samples["task docs"].clusters.reshape(IMAGES, EACH)
    assert (sampled == sampled[:, :1]).all()
    assert len(set(sampled[:, 0].tolist())) == IMAGES
    assert subject_notes(found.values()) == [
        "Errors and tests treat whole images, not items, as independent: docs (12 images)."
    ]


def test_right_or_wrong_answers_flip_with_their_image(tmp_path: Path) -> None:
    """Two of three images lose all of their four questions: eight losses of one kind are no evidence."""
    before, lost = np.ones(12), np.array([0.0] * 8 + [1.0] * 4)
    stored = {"docs": {"BF16": items(before, labels(3, 4)), "Q4": items(lost, labels(3, 4))}}
    score = records_of(tmp_path, Stored("r", stored))["Q4"].tasks["docs"]
    assert score.clusters == 3  # fewer than the subjects that would be needed
    assert score.p_value == 0.5  # 2 of 2^2 ways
    assert statistics.mcnemar(before, lost) < 0.01


def test_intervals_cover_a_loss_that_differs_between_images() -> None:
    rng = np.random.default_rng(1)
    sizes = [2] * 20 + [5] * 10 + [12] * 5
    image = np.repeat(range(len(sizes)), sizes)
    units = paired_items.units(items(np.zeros(len(image)), [f"image {i}" for i in image]))
    covered = {True: 0, False: 0}
    for _ in range(RUNS):
        row = rng.normal(0, 0.1, len(sizes))[image] + rng.normal(0, 0.05, len(image))
        for clustered in covered:
            kwargs = {"clusters": units.labels, "fewest": units.fewest} if clustered else {}
            interval = statistics.compare_differences(row, **kwargs)
            covered[clustered] += interval.low <= 0 <= interval.high
    assert 0.92 < covered[True] / RUNS < 0.98
    assert covered[False] / RUNS < 0.75


def test_the_image_of_an_item_is_stored(tmp_path: Path) -> None:
    rows = items(np.ones(2), ["a", ""])
    with Store(tmp_path / "s.db") as store:
        store.put("k", Outcome("ok", {}, None, 1.0), rows)
    with Store(tmp_path / "s.db") as store:
        assert store.items("k") == rows
