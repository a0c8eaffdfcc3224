"""`sweep run` with a repository of GGUF files that somebody published, in a directory and on a hub on localhost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND
from hub_server import serve

from converters.errors import InputError
from converters.export import export
from converters.imatrix import ImportanceMatrix, ImportanceStatistics
from converters.llamacpp.container import encode_header, string
from converters.llamacpp.reader import read_header
from converters.resolver import open_source
from presets import builtin_models
from sweep.execution.local import LocalHost
from sweep.jobs.export import ExportJob
from sweep.planning.prepare import Sweep, prepare
from sweep.planning.request import Request

MICRO = builtin_models()["micro"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of micro in a publisher's layout: one in a subfolder, in parts."""
    directory = tmp_path_factory.mktemp("published") / "micro-GGUF"
    (directory / "UD-Q2_K_XL").mkdir(parents=True)
    source = open_source(MICRO.directory, "micro")
    export(source, {name: directory / f"micro-{name}.gguf" for name in ("BF16", "Q4_K_M", "Q4_K_S", "Q3_K_M")})
    export(source, {"Q2_K_XL": directory / "UD-Q2_K_XL/micro-UD-Q2_K_XL.gguf"}, max_part_bytes=1_000_000)
    return directory


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "short.txt"
    file.write_text(MICRO.text.read_text()[:12_000])
    return file


def planned(directory: Path, workspace: Path, text: Path, variants: str | None = None) -> Sweep:
    request = Request(
        str(directory), variants=variants, tasks=("none",), perplexity=(text,), gpu=("12GiB",), workspace=workspace
    )
    with LocalHost() as host:
        return prepare(request, lambda _: None, host)


def names(sweep: Sweep) -> list[str]:
    return [variant.name for variant in sweep.variants]


def test_by_default_one_file_of_each_size_is_measured(published: Path, text: Path, tmp_path: Path) -> None:
    found = planned(published, tmp_path, text)
    assert names(found) == ["gguf:BF16", "gguf:Q4_K_M", "gguf:Q3_K_M", "gguf:UD-Q2_K_XL"]  # Q4_K_S is next to Q4_K_M
    assert found.plan.reference == "gguf:BF16"
    assert found.plan.model == "micro"
    assert set(names(planned(published, tmp_path, text, "all"))) == {*names(found), "gguf:Q4_K_S"}
    assert names(planned(published, tmp_path, text, "=ud-q2_k_xl")) == ["gguf:BF16", "gguf:UD-Q2_K_XL"]
    with pytest.raises(InputError, match=r"Q9: .* has no such quant; it has BF16, Q4_K_M"):
        planned(published, tmp_path, text, "=Q9")


def test_a_quant_that_is_not_published_is_made_from_the_unquantized_file(
    published: Path, text: Path, tmp_path: Path
) -> None:
    found = planned(published, tmp_path, text, "=Q6_K")
    assert names(found) == ["gguf:BF16", "Q6_K"]
    (job,) = (cell.job for cell in found.plan.cells if isinstance(cell.job, ExportJob))
    assert job.source.name == str(published / "micro-BF16.gguf")


def test_without_an_unquantized_file_the_largest_quant_is_the_reference(
    published: Path, text: Path, tmp_path: Path
) -> None:
    quants = tmp_path / "quants"
    quants.mkdir()
    for name in ("Q4_K_M", "Q3_K_M"):
        shutil.copy(published / f"micro-{name}.gguf", quants)
    found = planned(quants, tmp_path / "w", text)
    assert found.plan.reference == "gguf:Q4_K_M"
    (note,) = found.plan.about["repository"]["notes"]
    assert note.startswith("the reference is gguf:Q4_K_M, which is itself quantized, because ")
    with pytest.raises(InputError, match=r"Q6_K: .* has no such quant, and no unquantized file to make it from"):
        planned(quants, tmp_path / "w", text, "=Q6_K")


def sweep_on(url: str, folder: Path, text: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
    command = [*COMMAND, "run", *arguments, "--tasks", "none", "--perplexity", str(text), "--format", "json"]
    command += ["--gpu", "12GiB", "--workspace", str(folder / "w")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def most_files(events: Sequence[dict[str, object]]) -> int:
    """The largest number of downloaded files that were on the disk at the same time."""
    left: dict[str, int] = {}
    for label in next(list(event["pending"]) for event in events if event["event"] == "started"):  # type: ignore[call-overload]
        left[label.rpartition("/")[0]] = left.get(label.rpartition("/")[0], 0) + 1
    on_disk: set[str] = set()
    most = 0
    for event in events:
        variant, _, job = str(event.get("cell", "")).rpartition("/")
        if event["event"] == "cell_started" and job == "download":
            on_disk.add(variant)
            most = max(most, len(on_disk))
        if str(event["event"]) in ("cell_done", "cell_failed", "cell_skipped"):
            left[variant] -= 1
            if not left[variant]:
                on_disk.discard(variant)
    return most


def test_a_repository_is_measured_with_two_files_on_the_disk(published: Path, text: Path, tmp_path: Path) -> None:
    directory = tmp_path / "repository"
    shutil.copytree(published, directory)
    (directory / "micro-Q4_K_S.gguf").unlink()
    size = sum(file.stat().st_size for file in directory.rglob("*.gguf"))
    broken = directory / "micro-Q3_K_M.gguf"
    with serve({"org/micro-GGUF": directory}) as hub:
        hub.cut = lambda path, count: 0 if path == broken.name and count > 500_000 else count  # not its header
        done = sweep_on(hub.url, tmp_path, text, "org/micro-GGUF")
        assert done.returncode == 1, done.stderr
        assert size - broken.stat().st_size < hub.sent < size - broken.stat().st_size + 1_000_000  # with the headers
        last = json.loads(done.stdout.splitlines()[-1])
        found = {record["variant"]: record for record in last["records"]}
        assert {name: record["status"] for name, record in found.items()} == {
            "hub:BF16": "ok", "hub:Q4_K_M": "ok", "hub:Q3_K_M": "failed", "hub:UD-Q2_K_XL": "ok"
        }  # fmt: skip
        assert "org/micro-GGUF/micro-Q3_K_M.gguf: the download broke at 0 of" in found["hub:Q3_K_M"]["error"]
        assert found[last["advice"]["variant"]]["status"] == "ok"
        left = [file.parent.name for file in (tmp_path / "w").rglob("*.gguf")]
        assert [name.endswith(".partial") for name in left] == [True]  # of the broken download, which can go on
        (log,) = (tmp_path / "w" / "runs").glob("*/events.jsonl")
        assert most_files([json.loads(line) for line in log.read_text().splitlines()]) == 2
        hub.sent, hub.cut = 0, lambda _path, count: count
        again = json.loads(sweep_on(hub.url, tmp_path, text, "org/micro-GGUF").stdout.splitlines()[-1])
        assert hub.sent == broken.stat().st_size  # the only file that is still to be measured
        whole = {record["variant"]: record for record in again["records"]}
        assert whole.pop("hub:Q3_K_M")["status"] == "ok"
        assert whole == {name: record for name, record in found.items() if name in whole}


PLANNED = """
import json, sys
from pathlib import Path
from converters.errors import InputError
from sweep.execution.local import LocalHost
from sweep.planning.prepare import prepare
from sweep.planning.request import Request
plans = []
with LocalHost() as host:
    for model, variants in json.loads(sys.argv[1]):
        request = Request(model, variants=variants, tasks=("none",), perplexity=(Path(sys.argv[2]),), gpu=("12GiB",),
                          workspace=Path(sys.argv[3]))
        try:
            plan = prepare(request, lambda _: None, host).plan
            needs = {cell.label: [one.label for one in plan.cells if one.key in cell.needs] for cell in plan.cells}
            plans.append({"variants": plan.variants, "reference": plan.reference, "imatrix": plan.about["imatrix"],
                          "notes": plan.about.get("repository", {}).get("notes"), "needs": needs})
        except InputError as error:
            plans.append({"error": str(error)})
print(json.dumps(plans))
"""


def with_metadata(file: Path, copy: Path, **texts: str) -> None:
    """Copy a GGUF file and add texts to its metadata; __ in a key stands for a dot."""
    header = read_header(file)
    added = {key.replace("__", "."): string(value) for key, value in texts.items()}
    content = encode_header({**header.metadata, **added}, header.tensors)
    copy.write_bytes(content + file.read_bytes()[header.data_offset :])


def write_matrix(path: Path) -> None:
    """An importance matrix of micro, with random sums."""
    rng = np.random.default_rng(0)
    sums = {
        tensor.name: ImportanceStatistics(rng.uniform(1, 2, (1, tensor.shape[-1])).astype(np.float32), np.ones(1, "f4"))
        for tensor in open_source("micro").tensors
        if len(tensor.shape) == 2 and tensor.name.startswith("blk.")
    }
    ImportanceMatrix(sums, ("text.txt",), 7, 512).write(path)


def test_publishers_checkpoints_and_matrices_of_repositories(published: Path, text: Path, tmp_path: Path) -> None:
    names = ("two", "floats", "named", "tuned")
    two, floats, named, tuned = folders = [tmp_path / name / "micro" for name in names]
    for folder in folders:
        folder.mkdir(parents=True)
    shutil.copy(published / "micro-Q4_K_M.gguf", two / "other-Q4_K_M.gguf")
    shutil.copy(published / "micro-BF16.gguf", floats)
    write_matrix(floats / "micro-imatrix.gguf")
    key = "general__base_model__0__repo_url"
    quant = published / "micro-Q4_K_M.gguf"
    with_metadata(quant, named / "micro-Q4_K_M.gguf", **{key: "https://hub.example/maker/micro"})
    with_metadata(quant, tuned / "micro-Q4_K_M.gguf", **{key: "https://hub.example/maker/micro-base"})
    models = {"one/micro-GGUF": published, "maker/micro": MICRO.directory}
    models |= {f"{name}/micro-GGUF": folder for name, folder in zip(names, folders, strict=True)}
    asked = [
        ("one/micro-GGUF", "=Q4_K_M,hub:two/micro-GGUF"),
        ("micro", "=hub:two/micro-GGUF"),
        ("floats/micro-GGUF", "=Q2_K"),
        ("named/micro-GGUF", None),
        ("tuned/micro-GGUF", None),
    ]
    with serve(models) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        arguments = [json.dumps(asked), str(text), str(tmp_path / "w")]
        command = [sys.executable, "-c", PLANNED, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    publishers, beside, made, original, base = json.loads(done.stdout.splitlines()[-1])
    assert publishers["variants"] == ["hub:BF16", "hub:one/Q4_K_M", "hub:two/Q4_K_M"]
    assert beside["variants"] == ["BF16", "hub:Q4_K_M"]
    assert made["variants"] == ["hub:BF16", "Q2_K"]
    assert made["needs"]["Q2_K/export"] == ["hub:BF16/download"]
    assert made["imatrix"] == "micro-imatrix.gguf"
    assert (original["variants"], original["reference"]) == (["BF16", "hub:Q4_K_M"], "BF16")
    assert "made from maker/micro, the original checkpoint that the header names" in original["notes"][-1]
    assert base["reference"] == "hub:Q4_K_M"
    assert base["notes"][0].startswith("the header names maker/micro-base, which is another model by its name")
