"""The figures of the published study next to those of a run of the same model, method and bits."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console
from stored_runs import Stored, items

from presets.ptq_study import ptq_study
from sweep.analysis.ptq_study import study_comparison
from sweep.analysis.run_candidates import advise_on_records
from sweep.cli import main
from sweep.report.html import render_html
from sweep.report.ptq_study import render_study
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace

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
    found = study_comparison("Qwen3-8B", rows_of(stored("Qwen3-8B"), workspace))
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


def test_nothing_is_shown_for_other_models_or_variants(workspace):
    rows = rows_of(stored("micro"), workspace)
    assert study_comparison("micro", rows) is None
    assert study_comparison("Qwen3-8B-finetuned", rows) is None
    other = [row for row in rows if row.variant in ("torch:BF16", "Q4_K_M", "awq+gptq:w4g128")]
    assert study_comparison("Qwen3-8B", other) is None
    assert "published study" not in render_html(rows, {}, advise_on_records(rows, "micro"))


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
