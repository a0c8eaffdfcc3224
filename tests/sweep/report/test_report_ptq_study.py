"""The figures of the published study next to those of a run of the same model, method and bits."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rich.style import Style
from stored_runs import Stored, items

from presets.ptq_study import VLM, ptq_study, study
from sweep.analysis.ptq_study import study_comparison
from sweep.analysis.run_candidates import advise_on_records
from sweep.cli import main
from sweep.report.csv_json import to_csv, to_json_lines
from sweep.report.html import render_html
from sweep.report.ptq_study import render_study
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace
from tui.state.results import read_results
from tui.state.sorting import Sorting
from tui.theme import Palette
from tui.widgets.details import details
from tui.widgets.results_table import STUDY, column_heads, sort_values, table_rows

VARIANTS = ("torch:BF16", "gptq:w4g128", "rtn:w8a8-sym", "awq+gptq:w4g128", "Q4_K_M")
NLL, KLD = np.full(4, np.log(10.0)), np.full(4, 0.01)


def stored(model: str) -> Stored:
    return Stored(
        "a-run",
        tasks={task: dict.fromkeys(VARIANTS, items([1, 1, 1, 0])) for task in ("piqa", "ifeval")},
        text={name: (NLL, None if name == "torch:BF16" else KLD) for name in VARIANTS},
        variants=VARIANTS,
        model=model,
    )


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def rows_of(run: Stored, workspace: Workspace):
    workspace.root.mkdir(exist_ok=True)
    plan = run.put(workspace)
    with Store(workspace.database) as store:
        return records(plan, store)


def test_the_tables_rows_are_those_of_the_paper():
    study = ptq_study()
    row = study.row("Qwen/Qwen3-8B", "gptq:w4g128")
    assert (row.wikitext2, row.c4, row.tasks["piqa"], row.tasks["mmlu"]) == (9.96, 13.5, 76.0, 73.4)
    assert study.row("Qwen3-8B", "rtn:w2").wikitext2 is None  # NaN there
    assert study.row("Qwen3-0.6B-Base", "sq:w4a4").wikitext2 == 52_500
    assert study.row("Qwen3-8B", "rtn:w8a8-sym") == study.row("Qwen3-8B", "sq:w8a8")
    assert len({model for model, _ in study.rows}) == 11
    assert {row.variant.partition(":")[0] for row in study.rows.values()} - {"torch"} == set(study.defects) - {""}


def test_the_studys_figures_stand_next_to_those_of_the_same_model_method_and_bits(workspace):
    found = study_comparison(rows_of(stored("Qwen3-8B"), workspace))
    assert {record.variant: row.wikitext2 for record, row in found.rows} == {
        "torch:BF16": 9.71,
        "gptq:w4g128": 9.96,
        "rtn:w8a8-sym": 9.62,
    }
    assert found.tasks == ("piqa",)
    console = Console(file=io.StringIO(), width=120)
    console.print(render_study(found, 120))
    output = console.file.getvalue()
    assert re.search(r"gptq:w4g128 +10\.0 +9\.96 +13\.5 +75\.0 +76\.0\n", output)
    words = " ".join(output.split())
    assert "rtn:w8a8-sym: never smooths" in words
    assert "gptq:w4g128: stops with an error on Qwen3" in words
    assert "awq" not in words  # only the defects of methods that are in the table


def test_records_and_csv_have_them_too(workspace):
    rows = rows_of(stored("Qwen3-8B"), workspace)
    stated = {row["variant"]: row["study"] for row in map(json.loads, to_json_lines(rows).splitlines())}
    assert stated["awq+gptq:w4g128"] is None
    assert stated["Q4_K_M"] is None
    assert stated["gptq:w4g128"]["variant"] == "gptq:w4g128"
    assert stated["rtn:w8a8-sym"]["variant"] == "sq:w8a8"  # whose figures they are
    found = stated["gptq:w4g128"]
    assert (found["wikitext2"], found["c4"], found["tasks"]["piqa"]) == (9.96, 13.5, 76.0)
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert {line["variant"]: line["study.wikitext2"] for line in lines} == {
        "torch:BF16": "9.71", "gptq:w4g128": "9.96", "rtn:w8a8-sym": "9.62", "awq+gptq:w4g128": "", "Q4_K_M": "",
    }  # fmt: skip
    assert lines[1]["study.tasks.piqa"] == "76.0"
    other = Workspace(workspace.root / "other")
    assert "study" not in to_csv(rows_of(stored("micro"), other)).partition("\n")[0]


def test_the_results_screen_has_them_only_for_a_model_of_the_study(workspace):
    stored("Qwen3-8B").put(workspace)
    results = read_results(workspace, "a-run")
    assert STUDY in column_heads(results)
    assert sort_values(results)[STUDY](results.row("gptq:w4g128")) == 9.96
    plain = Style()
    colours = Palette(plain, plain, plain, plain, plain, plain, plain)
    heads, lines = table_rows(results, Sorting(), {}, lambda _: True, 300, colours)
    place = [head for head, _ in heads].index(STUDY)
    assert {name: cells[place].plain for name, cells in lines} == {
        "torch:BF16": "9.71", "gptq:w4g128": "9.96", "rtn:w8a8-sym": "9.62", "awq+gptq:w4g128": "–", "Q4_K_M": "–",
    }  # fmt: skip
    words = details(results, "gptq:w4g128", colours).plain
    assert "study       PPL 9.96 WikiText-2, 13.5 C4\n            piqa 76.0\n" in words
    assert "rtn:w8a8-sym: never smooths" in words
    assert "WikiText-2, " not in details(results, "Q4_K_M", colours).plain
    worse = replace(results, rows=tuple(replace(row, worse_than_rounding="rtn:w4g128") for row in results.rows))
    assert "loses more than rtn:w4g128, plain rounding" in details(worse, "gptq:w4g128", colours).plain
    other = Workspace(workspace.root / "other")
    rows_of(stored("micro"), other)
    assert STUDY not in column_heads(read_results(other, "a-run"))


def test_nothing_is_shown_for_other_models_or_variants(workspace):
    for place, model in enumerate(("micro", "Qwen3-8B-finetuned")):
        rows = rows_of(stored(model), Workspace(workspace.root / str(place)))
        assert study_comparison(rows) is None
        assert "published study" not in render_html(rows, {}, advise_on_records(rows, model))
    rows = rows_of(stored("Qwen3-8B"), workspace)
    assert study_comparison([row for row in rows if row.variant in ("torch:BF16", "Q4_K_M", "awq+gptq:w4g128")]) is None


def test_sweep_report_prints_them_in_the_terminal_and_in_html(workspace, capsys, monkeypatch):
    stored("Qwen3-8B").put(workspace)
    monkeypatch.setattr("sys.argv", ["sweep", "report", "a-run", "--workspace", str(workspace.root)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "Next to a published study" in output
    page = (workspace.run("a-run") / "report.html").read_text()
    assert page.count("<h2>Next to a published study</h2>") == 1
    section = page.partition("<h2>Next to a published study</h2>")[2].partition("</section>")[0]
    row = section.partition("gptq:w4g128</th>")[2].partition("</tr>")[0]
    assert re.findall(r"<td>(.*?)</td>", row) == ["10.0", "9.96", "13.5", "75.0", "76.0"]


def test_scores_of_the_study_of_vision_models_are_next_to_those_of_a_run(workspace: Workspace) -> None:
    names = ("torch:BF16", "fq:sq", "int8:sq", "fq:sq-ph-a0.8", "fq:sq-ph-dyn")
    run = Stored(
        "a-run",
        tasks={task: dict.fromkeys(names, items([1, 1, 1, 0])) for task in ("docvqa", "ocr")},
        text={name: (NLL, None if name == "torch:BF16" else KLD) for name in names},
        variants=names,
        model="Qwen/Qwen3-VL-2B-Instruct",
    )
    rows = rows_of(run, workspace)
    found = study_comparison(rows)
    assert found is not None
    assert {record.variant: row.tasks["docvqa"] for record, row in found.rows} == {
        "torch:BF16": 48.56, "fq:sq": 44.63, "int8:sq": 44.63, "fq:sq-ph-a0.8": 48.45,
    }  # fmt: skip
    assert found.tasks == ("docvqa", "ocr")
    console = Console(width=100, file=io.StringIO())
    console.print(render_study(found, 100))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "docvqa %" in text
    assert "PPL" not in text  # the study has none
    assert "perplexities" not in text
    results = read_results(workspace, "a-run")
    assert STUDY not in column_heads(results)
    plain = Style()
    shown = str(details(results, "fq:sq", Palette(plain, plain, plain, plain, plain, plain, plain)))
    assert "docvqa 44.6, ocr 20.9" in shown
    assert "no perplexity" not in shown


def test_rows_of_the_study_of_vision_models_are_marked_and_consistent() -> None:
    found = study(VLM)
    for (model, variant), row in found.rows.items():
        if set(row.tasks) == {"overall"}:  # the row whose tasks are not known
            assert (model, variant) == ("qwen2.5-vl-3b-instruct", "fq:sq-ph")
            assert row.tasks["overall"] > found.rows[model, "torch:BF16"].tasks["overall"]
            assert variant in found.defects
        else:
            tasks = [score for task, score in row.tasks.items() if task != "overall"]
            assert row.tasks["overall"] == pytest.approx(sum(tasks) / 3, abs=0.011)
    assert set(found.same.values()) <= {variant for _, variant in found.rows}
