"""`sweep run` with several models, and `sweep report` of their runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from safetensors.torch import load_file, save_file
from stored_runs import Stored, items

import presets
from sweep.cli.several_models import arguments_for
from sweep.commands.launch import remembered_command
from sweep.workspace import Workspace

MICRO = presets.builtin_models()["micro"]
WINDOWS = np.linspace(0.5, 1.5, 40)


@pytest.mark.parametrize(
    ("typed", "alone"),
    [
        (["run", "a", "b", "--preset", "q4"], ["run", "b", "--preset", "q4"]),
        (["run", "--preset", "b", "a", "b"], ["run", "b", "--preset", "b"]),
        (["run", "a", "--chat-template", "b", "--limit=5"], ["run", "b", "--chat-template", "--limit=5"]),
        (["run", "a", "b", "--memory", "12GiB", "--keep", "best"], ["run", "b", "--keep", "best"]),
        (["run", "a", "--memory=12GiB", "--", "b"], ["run", "b"]),
    ],
)
def test_the_command_of_one_of_the_runs_names_only_its_model(typed: list[str], alone: list[str]) -> None:
    assert list(arguments_for("b", typed)) == alone


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("micro", "micro"), "micro is named twice; name each model once"),
        (("micro", MICRO.directory), "are the same model; name each model once"),
        (("micro", "micro-moe", "no-such-model"), "no-such-model: there is no such model"),
        (("micro", "micro-moe", "--memory", "12"), "--memory '12' is not a size"),
        (("micro", "--memory", "12GiB"), "--memory chooses among several models"),
    ],
)
def test_bad_input_ends_before_any_work(words: tuple[object, ...], message: str, tmp_path: Path) -> None:
    ended = call("run", *words, "--workspace", tmp_path)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """A workspace with a run of a small and of a large model, of a third with another tokenizer, and an empty one."""
    workspace = Workspace(tmp_path)
    rng = np.random.default_rng(0)
    for name, right, tokens in (("small", 0.3, "w"), ("large", 0.7, "w"), ("alien", 0.5, "x")):
        by_variant = {variant: items(rng.random(200) < right) for variant in ("BF16", "Q4_K_M")}
        text = {"BF16": (WINDOWS - right, None), "Q4_K_M": (WINDOWS - right + 0.01, np.full(40, 0.01))}
        Stored(
            f"{name}-1",
            {"t": by_variant},
            text,
            ("BF16", "Q4_K_M"),
            name,
            windows=tokens,
            speeds={"BF16": 9.0, "Q4_K_M": 9.0},
        ).put(workspace)
    old = {"BF16": (WINDOWS, None), "Q4_K_M": (WINDOWS + 0.01, np.full(40, 0.01))}
    Stored("old-1", {"t": {"BF16": items(rng.random(200) < 0.1)}}, old, ("BF16", "Q4_K_M"), "old").put(workspace)
    Stored("empty-1", {"t": {}}, {}, ("BF16",), "empty").put(workspace)
    return workspace


def test_several_runs_are_reported_as_one_comparison(space: Workspace) -> None:
    ended = call("report", "small-1", "large-1", "--workspace", space.root, "--memory", "1GiB")
    assert ended.returncode == 0, ended.stderr
    assert "Mean score, %, over t (the same items for every model)" in ended.stdout
    assert "Perplexity (the same tokens for every model)" in ended.stdout
    assert "► For 1.00 GiB: run large in BF16" in " ".join(ended.stdout.split())
    (page,) = space.sizes.glob("*.html")
    assert "<svg" in page.read_text()
    ended = call("report", "large-1", "small-1", "--workspace", space.root, "--format", "json", "--memory", "1GiB")
    (row,) = map(json.loads, ended.stdout.splitlines())
    assert row["event"] == "sizes"
    assert row["choice"]["model"] == "large"
    assert row["choice"]["open"] is False
    assert row["choice"]["against"][0]["score"]["low"] > 0.2
    assert [model["run"] for model in row["models"]] == ["large-1", "small-1"]  # of equal size, so in the given order
    assert Path(row["html"]) == page


def test_perplexity_is_not_compared_across_tokenizers_and_this_is_said(space: Workspace) -> None:
    ended = call("report", "small-1", "alien-1", "--workspace", space.root)
    assert ended.returncode == 0, ended.stderr
    assert "their tokenizers differ" in " ".join(ended.stdout.split())
    assert "Perplexity (the same tokens" not in ended.stdout
    assert "run alien in BF16" in " ".join(ended.stdout.split())


def test_runs_of_an_earlier_version_are_compared_by_tasks_and_the_rest_is_said(space: Workspace) -> None:
    """They did not store which tokens they scored."""
    ended = call("report", "small-1", "old-1", "--workspace", space.root)
    assert ended.returncode == 0, ended.stderr
    assert "it is not certain that the models scored the same tokens" in " ".join(ended.stdout.split())
    assert "Mean score, %, over t" in ended.stdout


def test_exported_records_of_several_runs_name_their_models(space: Workspace, tmp_path: Path) -> None:
    where = ("--workspace", space.root)
    page, table = tmp_path / "sizes.html", tmp_path / "records.csv"
    ended = call("report", "small-1", "large-1", *where, "--html", page, "--csv", table, "--json")
    assert ended.returncode == 0, ended.stderr
    names = [("small", "BF16"), ("small", "Q4_K_M"), ("large", "BF16"), ("large", "Q4_K_M")]
    assert [(row["model"], row["variant"]) for row in map(json.loads, ended.stdout.splitlines())] == names
    assert [(row["model"], row["variant"]) for row in csv.DictReader(table.read_text().splitlines())] == names
    assert "which model and quant to run" in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("small-1", "small-1"), "small-1 is named twice"),
        (("small-1", "nothing-1"), "nothing-1: no such run"),
        (("small-1", "empty-1"), "two models with results are needed to compare sizes, and there is one"),
        (("small-1", "--memory", "1GiB"), "--memory chooses among several models; name the run of each"),
    ],
)
def test_runs_that_cannot_be_compared_are_rejected(words: tuple[str, ...], message: str, space: Workspace) -> None:
    ended = call("report", *words, "--workspace", space.root)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


@pytest.mark.slow
def test_two_models_are_measured_one_after_another_and_compared(tmp_path: Path) -> None:
    """Also after another one failed, and when the call is repeated."""
    text = tmp_path / "short.txt"
    text.write_text(MICRO.text.read_text()[:12_000])
    space = tmp_path / "space"
    words = ["run", "micro", "micro-moe", "--preset", "size-scaling", "--variants", "=Q4_K_M,Q2_K"]
    words += ["--tasks", "micro_form,micro_sums", "--limit", "40", "--perplexity", str(text), "--workspace", str(space)]
    planned = call(*words, "--dry-run")
    assert "1 of 2: micro\n" in planned.stdout
    assert "2 of 2: micro-moe\n" in planned.stdout
    assert not (space / "runs").exists()

    damaged = tmp_path / "damaged"
    shutil.copytree(MICRO.directory, damaged)
    weights = load_file(damaged / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    ended = call("run", str(damaged), *words[1:], "--format", "json", "--memory", "12MiB")
    assert ended.returncode == 2
    assert "'model.norm.weight' has nan" in ended.stderr
    assert f"sweep: {damaged}: exit code 2" in ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    finished = [row for row in rows if row["event"] == "finished"]
    assert [row["run"].rpartition("-size-scaling-")[0] for row in finished] == ["micro", "micro-moe"]
    last = rows[-1]
    assert last["notes"] == ["damaged is left out: it has no results yet."]
    assert last["event"] == "sizes"
    assert [model["model"] for model in last["models"]] == ["micro", "micro-moe"]
    assert [model["exit_code"] for model in last["models"]] == [0, 0]
    assert last["tasks"] == ["micro_form", "micro_sums"]
    assert last["perplexity_compared"] is True  # the models have the same tokenizer
    by_name = {(row["model"], row["variant"]): row for row in last["variants"]}
    for row, model in zip(finished, ("micro", "micro-moe"), strict=True):
        for record in row["records"]:
            own = by_name[model, record["variant"]]
            assert own["memory_bytes"] == record["memory"]["predicted_bytes"]
            assert own["perplexity"] == record["perplexity"]["value"]
            scores = [record["tasks"][task]["value"] for task in last["tasks"]]
            assert own["score"] == pytest.approx(sum(scores) / 2)
    assert last["choice"]["model"] == "micro-moe"  # micro needs more than 12 MiB even in Q2_K
    assert last["frontier"][-1]["model"] == "micro"  # it was trained for longer
    for row in finished:
        command = remembered_command(Workspace(space).run(row["run"]))
        assert "micro-moe" not in command.arguments[2:]
        assert "--memory" not in command.arguments

    again = call(*words)
    assert again.returncode == 0, again.stderr
    assert "micro: 15 of 15 jobs are done already" in again.stderr
    assert "micro-moe: 15 of 15 jobs are done already" in again.stderr
    assert "Which model and quant for how much memory" in again.stdout
