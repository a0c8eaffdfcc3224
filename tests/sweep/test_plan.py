"""The key of a cell changes with everything that its result depends on, and with nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from plans import planned, text_file

from converters.errors import InputError
from sweep.jobs.inputs import TextFile
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.text import TextJob
from sweep.results.plan import Plan

VARIANTS = ("Q8_0", "BF16", "Q2_K")


@pytest.fixture
def text(tmp_path: Path) -> TextFile:
    return text_file(tmp_path / "text.txt", "some words")


def keys(plan: Plan) -> dict[str, str]:
    return {cell.label: cell.key for cell in plan.cells}


def test_the_reference_comes_first_and_the_other_texts_wait_for_its_text(text: TextFile) -> None:
    plan = planned(*VARIANTS, text=text)
    assert [cell.variant for cell in plan.cells[:4]] == ["BF16"] * 4
    assert plan.variants == VARIANTS
    by_label = {cell.label: cell for cell in plan.cells}
    reference = by_label["BF16/text"]
    assert isinstance(reference.job, TextJob)
    assert reference.output == reference.job.distributions
    for variant in ("Q8_0", "Q2_K"):
        cell = by_label[f"{variant}/text"]
        assert isinstance(cell.job, TextJob)
        assert cell.job.reference == reference.output
        assert cell.optional_needs == (reference.key,)


def test_threads_and_context_change_only_the_keys_of_speed(text: TextFile) -> None:
    before = keys(planned(*VARIANTS, text=text))
    for after in (
        planned(*VARIANTS, text=text, resources=ComputeResources(threads=7)),
        planned(*VARIANTS, text=text, settings=Settings(ctx=512)),
    ):
        assert {label for label, key in keys(after).items() if before[label] != key} == {
            f"{v}/speed" for v in ("BF16", "Q8_0", "Q2_K")
        }


def test_another_device_changes_the_keys_of_measurements_but_not_of_exports(text: TextFile) -> None:
    before = keys(planned(*VARIANTS, text=text))
    after = keys(
        planned(*VARIANTS, text=text, resources=ComputeResources(devices={"llama.cpp": "CUDA0", "torch": "cuda"}))
    )
    assert {label for label in before if before[label] == after[label]} == {f"{v}/export" for v in VARIANTS}


def test_window_and_text_change_only_the_keys_that_depend_on_them(tmp_path: Path, text: TextFile) -> None:
    before = keys(planned(*VARIANTS, text=text))
    other = text_file(tmp_path / "text.txt", "other words")
    after = keys(planned(*VARIANTS, text=other))
    assert {label for label in before if before[label] != after[label]} == {f"{v}/text" for v in VARIANTS}
    wider = keys(planned(*VARIANTS, text=other, settings=replace(Settings(), window=256)))
    assert {label for label in after if after[label] == wider[label]} == {f"{v}/export" for v in VARIANTS}


def test_another_model_changes_every_key(text: TextFile) -> None:
    before, after = (keys(planned(*VARIANTS, text=text, fingerprint=letter * 64)) for letter in "fe")
    assert not {label for label in before if before[label] == after[label]}


def test_a_plan_survives_json(text: TextFile) -> None:
    plan = planned(*VARIANTS, "int8:sq", text=text)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_reference_that_is_not_a_variant_is_rejected(text: TextFile) -> None:
    with pytest.raises(InputError, match="the reference BF16 is not among the variants"):
        planned("Q8_0", text=text, reference="BF16")
