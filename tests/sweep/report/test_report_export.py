"""CSV and JSON lines: nothing lost, nulls empty, every line valid JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

from presets.ptq_study import StudyRow
from sweep.jobs import serialization
from sweep.record import Divergence, Record
from sweep.report.csv_json import to_csv, to_json_lines


def rows(records) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(records))))


def test_json_lines_are_the_records(records, failed, hostile):
    lines = to_json_lines([*records, failed, hostile]).splitlines()
    assert [serialization.from_json(json.loads(line), Record) for line in lines] == [*records, failed, hostile]
    assert to_json_lines([]) == ""


def test_json_has_no_nan():
    broken = Record("Q4_0", "gguf", "ok", divergence=Divergence(float("nan"), float("inf"), 0.0, 0.0, 0.0))
    line = json.loads(to_json_lines([broken]), parse_constant=lambda name: 1 / 0)
    assert line["divergence"]["kld_mean"] is None
    assert line["divergence"]["kld_stderr"] is None


def leaves(value: object) -> int:
    return sum(map(leaves, value.values())) if isinstance(value, dict) else not isinstance(value, list | tuple)


def test_one_flat_row_per_variant_with_every_figure(records, failed):
    studied = replace(records[1], study=StudyRow("rtn:w2", 9.9, None, {"piqa": 70.0}))
    table = rows([records[0], studied, *records[2:], failed])
    assert [row["variant"] for row in table] == [*(record.variant for record in records), "IQ4_XS"]
    q2, record = table[1], studied
    assert float(q2["perplexity.value"]) == record.perplexity.value
    assert float(q2["divergence.kld_p99_9"]) == record.divergence.kld_p99_9
    assert float(q2["tasks.micro_sums.delta"]) == record.tasks["micro_sums"].delta
    assert float(q2["tasks.micro_code.other.strict"]) == record.tasks["micro_code"].other["strict"]
    assert int(q2["memory.predicted_bytes"]) == record.memory.predicted_bytes
    assert (q2["study.wikitext2"], q2["study.c4"], q2["study.tasks.piqa"]) == ("9.9", "", "70.0")
    assert len(q2) == leaves(record.to_json())


def test_nulls_and_missing_tasks_are_empty_cells(records, failed):
    last = rows([*records, failed])[-1]
    assert last["perplexity.value"] == last["file_bytes"] == last["tasks.micro_sums.value"] == ""
    assert rows([*records])[0]["divergence.kld_mean"] == ""


def test_names_with_commas_quotes_and_newlines_survive(records):
    odd = replace(records[1], variant='a,"b"', error="first\nsecond")
    (row,) = rows([odd])
    assert (row["variant"], row["error"]) == ('a,"b"', "first\nsecond")


def test_an_empty_sweep_has_a_header():
    assert to_csv([]).startswith("variant,kind,status")
    assert rows([]) == []
