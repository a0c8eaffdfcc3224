"""--best: the lowest measured divergence among variants that fit; without measurements, a guess by size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fit_reports import report, row, three
from stored_runs import Stored

from sweep.analysis.best import best, measured_klds
from sweep.fit.hardware import parse_devices
from sweep.workspace import Workspace

NLL = np.full(4, 1.0)


def stored(run: str, klds: dict[str, float], *, model: str = "Qwen3-8B", mark: str = "") -> Stored:
    text = {"BF16": (NLL, None)} | {name: (NLL, np.full(4, kld)) for name, kld in klds.items()}
    return Stored(run, text=text, variants=tuple(text), model=model, mark=mark)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_the_lowest_divergence_is_best_not_the_most_bits(workspace: Workspace) -> None:
    stored("one", {"Q4_K_M": 0.02, "Q4_K_XL": 0.01}).put(workspace)
    devices = parse_devices(["8GiB"])
    found = report([row("Q4_K_XL", 4.0, 4.5, devices), row("Q4_K_M", 4.5, 5.0, devices)], devices)
    choice = best(found, measured_klds(workspace, "Qwen3-8B"))
    assert (choice.variant, choice.measured) == ("Q4_K_XL", True)
    assert "0.010" in choice.sentence
    assert "run one" in choice.sentence


def test_a_variant_that_does_not_fit_is_never_best(workspace: Workspace) -> None:
    stored("one", {"Q4_K_M": 0.05, "Q8_0": 0.001}).put(workspace)
    losses = measured_klds(workspace, "Qwen3-8B")
    assert losses["BF16"].kld == 0.0  # the reference, which does not fit here
    assert best(three("6GiB"), losses).variant == "Q4_K_M"
    partly = three("6GiB")
    choice = best(report(partly.rows[1:], partly.devices), losses)
    assert choice.variant is None
    assert "451 MiB of it in RAM" in choice.sentence


def test_without_measurements_the_choice_is_called_a_guess(workspace: Workspace) -> None:
    assert measured_klds(workspace, "Qwen3-8B") == {}
    assert not workspace.database.exists()  # reading does not create a store
    choice = best(three("6GiB"), {})
    assert (choice.variant, choice.measured) == ("Q4_K_M", False)
    assert "guess by size alone" in choice.sentence


def test_runs_of_another_model_are_ignored(workspace: Workspace) -> None:
    stored("one", {"Q4_K_M": 0.05}, model="Qwen3-4B").put(workspace)
    assert measured_klds(workspace, "Qwen3-8B") == {}


def test_divergences_from_different_references_are_not_mixed(workspace: Workspace) -> None:
    stored("old", {"Q4_K_M": 0.05, "Q8_0": 0.002}, mark="a").put(workspace)
    stored("new", {"Q4_K_M": 0.0001}, mark="b").put(workspace)
    losses = measured_klds(workspace, "Qwen3-8B")
    assert {name: loss.run for name, loss in losses.items()} == dict.fromkeys(("BF16", "Q4_K_M", "Q8_0"), "old")


def test_larger_variants_without_measurements_are_named(workspace: Workspace) -> None:
    stored("one", {"Q4_K_M": 0.02}).put(workspace)
    devices = parse_devices(["8GiB"])
    found = report([row("Q4_K_M", 4.0, 4.5, devices), row("Q5_K_M", 4.5, 5.5, devices)], devices)
    choice = best(found, measured_klds(workspace, "Qwen3-8B"))
    assert choice.variant == "Q4_K_M"
    assert "not measured: Q5_K_M" in choice.sentence


def test_if_nothing_fits_the_closest_variant_is_named() -> None:
    devices = parse_devices(["2GiB"])
    choice = best(report([row("Q4_K_M", 4.0, 4.5, devices), row("Q2_K", 2.0, 2.6, devices)], devices), {})
    assert choice.variant is None
    assert "Q2_K" in choice.sentence
    assert "too large" in choice.sentence
