"""Variants of post-training quantization that lose more than plain rounding at the same bits are marked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from stored_runs import Stored

from sweep.analysis.trust import trust_notes
from sweep.methods.ptq import Ptq
from sweep.record import Record
from sweep.report.csv_json import to_csv, to_json_lines
from sweep.report.html import render_html
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace

NLL = np.full(6, 2.0)
PLAIN = np.array([0.10, 0.11, 0.12, 0.13, 0.14, 0.15])  # KLD of each window


def rows(tmp_path, **klds: np.ndarray | None) -> dict[str, Record]:
    """The records of a stored run with these divergences, in which plain rounding has PLAIN."""
    text = {"torch:BF16": None, "rtn:w4g128": PLAIN, **klds}
    run = Stored("r", text={name: (NLL[: len(PLAIN)], kld) for name, kld in text.items()}, variants=tuple(text))
    plan = run.put(Workspace(tmp_path))
    with Store(Workspace(tmp_path).database) as store:
        return {record.variant: record for record in records(plan, store)}


def test_only_a_significantly_higher_divergence_is_marked(tmp_path):
    noise = np.array([0.05, -0.04, 0.05, -0.04, 0.05, -0.04])
    found = rows(
        tmp_path,
        **{
            "awq:w4g128": PLAIN + 0.01,  # little, but in every window
            "gptq:w4g128": PLAIN + noise,  # a higher mean, within the error of the paired difference
            "hqq:w4g128": PLAIN - 0.01,
            "gptq:w4g128-sym": PLAIN + 0.02,
            "awq:w3g128": PLAIN + 1.0,  # no plain rounding at these bits
            "gptq:w4": PLAIN + 1.0,
            "Q4_K_M": PLAIN + 1.0,
        },
    )
    assert found["gptq:w4g128"].divergence.kld_mean > found["rtn:w4g128"].divergence.kld_mean
    marked = {name: row.worse_than_rounding for name, row in found.items() if row.worse_than_rounding}
    assert marked == {"awq:w4g128": "rtn:w4g128", "gptq:w4g128-sym": "rtn:w4g128"}


def test_one_window_has_no_interval_so_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr("test_plain_rounding.PLAIN", PLAIN[:1])
    found = rows(tmp_path, **{"awq:w4g128": PLAIN + 1.0})
    assert found["awq:w4g128"].worse_than_rounding is None


def test_the_mark_is_in_notes_report_json_and_csv(tmp_path):
    found = list(rows(tmp_path, **{"awq:w4g128": PLAIN + 0.015}).values())
    (note,) = (note for note in trust_notes(found) if "plain rounding" in note)
    assert note.startswith("Worse than plain rounding: awq:w4g128 (KL divergence 0.14, rtn:w4g128 0.13). ")
    assert note in render_html(found, {})
    stated = [json.loads(line)["worse_than_rounding"] for line in to_json_lines(found).splitlines()]
    assert stated == [None, None, "rtn:w4g128"]
    head, *lines = to_csv(found).splitlines()
    assert (head.split(",")[-1], [line.split(",")[-1] for line in lines]) == (
        "worse_than_rounding",
        ["", "", "rtn:w4g128"],
    )
    assert not [note for note in trust_notes(found[:2]) if "plain rounding" in note]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("sq:w8a8", "rtn:w8a8-sym"),
        ("sq:w8a8g128", None),
        ("awq+gptq:w4g128", "rtn:w4g128"),
        ("gptq:w4g128-sym", "rtn:w4g128-sym"),  # its own grid, if both are there
        ("gptq:w4g128@mine", "rtn:w4g128"),
        ("rtn:w4g128@search", "rtn:w4g128"),
        ("rtn:w4g128", "rtn:w4g128"),
        ("billm", None),
    ],
)
def test_plain_rounding_has_the_same_bits_of_weights_and_activations_and_the_same_groups(name, plain):
    variants = ("BF16", "rtn:w4g128@search", "rtn:w4g128-sym", "rtn:w4g128", "rtn:w8", "rtn:w8a8-sym", "gptq:w8a8g128")
    assert Ptq.plain_rounding(name, variants) == plain
