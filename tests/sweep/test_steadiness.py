"""A speed that other work on the machine disturbed is recognized: by its timings, by the load, by its siblings."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import pytest

from sweep.record import Record, Speed
from sweep.results.steadiness import steadier, with_steadiness


def record(variant: str, decode: Sequence[float] | float, file_bytes: int = 2_000_000, **given: Any) -> Record:
    """A variant whose decoding was timed, or, given one number, one of an earlier version without timings."""
    runs = tuple(decode) if isinstance(decode, Sequence) else ()
    speed = Speed(
        6000.0,
        median(runs) if runs else decode,
        decode_low=min(runs, default=None),
        decode_high=max(runs, default=None),
        decode_runs=runs,
        other_cores=given.pop("other_cores", None),
        cores=2,
    )
    fields = {"kind": "gguf", "status": "ok", "settings": {"threads": 2}} | given
    return Record(variant, file_bytes=file_bytes, speed=speed, **fields)


def unstable(*records: Record) -> dict[str, tuple[str, ...]]:
    """The reasons of the unstable variants."""
    found = with_steadiness(records)
    assert all(one.speed.unstable == bool(one.speed.unstable_reasons) for one in found if one.speed)
    return {one.variant: one.speed.unstable_reasons for one in found if one.speed and one.speed.unstable}


def test_timings_that_differ_by_more_than_half_of_their_median_are_unstable() -> None:
    found = unstable(record("Q2_K", [97, 120, 130, 125, 180]), record("Q3_K_M", [100, 120, 130, 125, 140]))
    assert found == {"Q2_K": ("its decode timings range from 97.0 to 180 tokens/s",)}


def test_a_speed_is_unstable_if_other_programs_took_cores_from_it() -> None:
    busy = record("Q2_K", [100.0] * 5, other_cores=0.9)
    assert unstable(busy) == {"Q2_K": ("other programs used 0.9 of 2 cores meanwhile",)}
    assert not unstable(record("Q2_K", [100.0] * 5, other_cores=0.2))
    assert not unstable(record("Q2_K", [100.0] * 5, other_cores=0.9, settings={"threads": 1}))  # a core was free
    assert not unstable(record("Q2_K", [100.0] * 5, other_cores=0.9, device="CUDA0"))


def test_of_two_siblings_that_do_not_go_together_both_are_unstable() -> None:
    found = unstable(record("Q2_K_XL", 582.0, 2_253_696), record("Q2_K", 130.0, 2_115_392))
    reason = (
        "Q2_K_XL (2.15 MiB) decodes 4.5 times as fast as Q2_K (2.02 MiB), over the 4.0 times that their sizes and "
        "types explain"
    )
    assert found == {"Q2_K_XL": (reason,), "Q2_K": (reason,)}


def test_of_several_siblings_the_odd_one_is_unstable() -> None:
    others = [record("Q2_K_XL", 582.0, 2_253_696), record("Q3_K_M", 560.0, 2_658_112)]
    assert unstable(record("Q2_K", 130.0, 2_115_392), *others).keys() == {"Q2_K"}


def test_a_sibling_that_is_unstable_by_itself_does_not_make_another_one_unstable() -> None:
    disturbed = record("Q2_K", [40, 130, 130, 130, 160], 2_115_392)
    assert unstable(disturbed, record("Q2_K_XL", 582.0, 2_253_696)).keys() == {"Q2_K"}


@pytest.mark.parametrize(
    "other",
    [
        record("BF16", 150.0, 10_000_000),  # five times the bytes
        record("Q8_0", 582.0, 5_000_000),  # a tiny model is not faster for being smaller
        record("Q2_K@q8_0", 30.0, kv_type="q8_0"),
        record("fq:w8a8", 30.0, kind="fake-quant"),
        record("Q2_K", 30.0, settings={"threads": 1}),
        record("Q4_K_M", 30.0, device="CUDA0"),
    ],
    ids=lambda one: one.variant,
)
def test_siblings_of_another_size_or_another_setting_may_differ(other: Record) -> None:
    assert not unstable(record("Q2_K_XL", 582.0, 2_253_696), other)


def test_a_record_without_timings_is_as_it_was() -> None:
    old, failed = record("Q2_K", 130.0), Record("Q4_K_M", "gguf", "failed")
    assert with_steadiness([old, failed]) == [old, failed]


def test_the_steadier_of_two_measurements() -> None:
    steady, faster = record("Q2_K", [100.0] * 5), record("Q2_K", [400.0] * 5)
    wild, wilder = record("Q2_K", [100, 200, 300]), record("Q2_K", [100, 300, 900])
    for one, other, best in (
        (steady, wild, steady),
        (steady, faster, faster),
        (wild, wilder, wild),
        (record("Q2_K", [900.0] * 5, other_cores=1.0), steady, steady),
    ):
        assert steadier(one, other) is best
        assert steadier(other, one) is best
