"""`sweep run` with a repository of GGUF files that somebody published, in a directory and on a hub on localhost."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, call
from hub_server import serve
from vision_models import make_vision_model

from converters.errors import InputError
from converters.export import export
from converters.gguf_repository import open_directory
from converters.imatrix import ImportanceMatrix, ImportanceStatistics
from converters.llamacpp.container import encode_header, string, uint32
from converters.llamacpp.reader import read_header
from converters.projector_source import ProjectorSource
from converters.resolver import Need, find_model, open_source
from presets import builtin_models
from sweep.cli.run_output import describe_run
from sweep.commands.fit import fit
from sweep.execution.local import LocalHost
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import FitOptions
from sweep.fit.hardware import parse_devices
from sweep.jobs.export import ExportJob
from sweep.measure.basefile import BaseFileWriter
from sweep.measure.perplexity import Windows
from sweep.planning.prepare import Sweep, prepare
from sweep.planning.request import Request
from sweep.results.records import records
from sweep.results.store import Store

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


def planned(
    directory: Path,
    workspace: Path,
    text: Path,
    variants: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    reference: Path | str | None = None,
) -> Sweep:
    request = Request(
        str(directory),
        variants=variants,
        tasks=("none",),
        perplexity=(text,),
        gpu=("12GiB",),
        workspace=workspace,
        reference=None if reference is None else str(reference),
    )
    with LocalHost() as host:
        return prepare(request, say, host)


def names(sweep: Sweep) -> list[str]:
    return [variant.name for variant in sweep.variants]


def test_by_default_one_file_of_each_size_is_measured(published: Path, text: Path, tmp_path: Path) -> None:
    found = planned(published, tmp_path, text)
    assert names(found) == ["gguf:BF16", "gguf:Q4_K_M", "gguf:Q3_K_M", "gguf:UD-Q2_K_XL"]  # Q4_K_S is next to Q4_K_M
    assert found.plan.reference == "gguf:BF16"
    assert found.plan.model == "micro"
    assert set(names(planned(published, tmp_path, text, "all"))) == {*names(found), "gguf:Q4_K_S"}
    assert names(planned(published, tmp_path, text, "=ud-q2_k_xl")) == ["gguf:BF16", "gguf:UD-Q2_K_XL"]
    with pytest.raises(InputError, match=r"other commands one file: .*/micro-BF16.gguf$"):
        find_model(str(published), Need.WEIGHTS)
    with pytest.raises(InputError, match=r"Q9: .* has no such quant; it has BF16, Q4_K_M"):
        planned(published, tmp_path, text, "=Q9")


def test_the_plan_has_the_sizes_of_published_files(published: Path, text: Path, tmp_path: Path) -> None:
    """They are those of files that are made from the checkpoint, whether the whole file is here or only its header."""
    quants = ("Q4_K_M", "Q3_K_M", "Q4_K_M+kv=q8_0")
    options = ("--variants", f"={','.join(quants)}", "--dry-run", "--format", "json")
    with serve({"org/micro-GGUF": published}) as hub:
        answers = [
            sweep_on(hub.url, tmp_path, text, name, *options) for name in ("micro", str(published), "org/micro-GGUF")
        ]
    made, local, remote = ({row["variant"]: row for row in json.loads(one.stdout)["variants"]} for one in answers)
    for quant in quants:
        for found in (local[f"gguf:{quant}"], remote[f"hub:{quant}"]):
            for part in ("file_bytes", "memory_bytes", "bits_per_weight"):
                assert found[part] == pytest.approx(made[quant][part], rel=1e-12)


def test_published_files_take_the_axes_of_how_they_are_run(published: Path, text: Path, tmp_path: Path) -> None:
    asked = "=Q4_K_M,Q3_K_M,gguf:q4_k_m+kv=q8_0,Q4_K_M+k=q8_0,v=q4_0"
    found = planned(published, tmp_path, text, asked)
    alike = ["gguf:Q4_K_M", "gguf:Q4_K_M+kv=q8_0", "gguf:Q4_K_M+k=q8_0+v=q4_0"]
    assert names(found) == ["gguf:BF16", *alike, "gguf:Q3_K_M"]
    models = [found.plan.model_of(name) for name in alike]
    assert [(one.file.name, one.settings.kv_type) for one in models if one is not None] == [
        (str(published / "micro-Q4_K_M.gguf"), cache) for cache in ("f16", "q8_0", "q8_0,q4_0")
    ]
    report = fit_model(str(published), ["Q4_K_M", "Q4_K_M+kv=q8_0"], parse_devices(["1GiB"]), FitOptions())
    assert [row.variant for row in report.rows] == alike[:2]
    assert report.rows[0].file_bytes == report.rows[1].file_bytes
    assert report.rows[0].total_bytes > report.rows[1].total_bytes


def test_a_quant_that_is_not_published_is_made_from_the_unquantized_file(
    published: Path, text: Path, tmp_path: Path
) -> None:
    found = planned(published, tmp_path, text, "=Q6_K")
    assert names(found) == ["gguf:BF16", "Q6_K"]
    (job,) = (cell.job for cell in found.plan.cells if isinstance(cell.job, ExportJob))
    assert job.source.name == str(published / "micro-BF16.gguf")


def damaged(file: Path, copy: Path, rotated: int | None = None, renamed: str | None = None) -> None:
    """Copy a GGUF file with another number of rotated dimensions, or with another name of its tensor `renamed`."""
    header = read_header(file)
    metadata = (
        header.metadata if rotated is None else {**header.metadata, "qwen3.rope.dimension_count": uint32(rotated)}
    )
    tensors = [replace(one, name=f"{one.name}s") if one.name == renamed else one for one in header.tensors]
    copy.write_bytes(encode_header(metadata, tensors) + file.read_bytes()[header.data_offset :])


def test_files_that_llama_cpp_cannot_read_are_left_out(published: Path, text: Path, tmp_path: Path) -> None:
    directory = tmp_path / "some-GGUF"
    directory.mkdir()
    for name in ("BF16", "Q4_K_M"):
        shutil.copy(published / f"micro-{name}.gguf", directory / f"some-{name}.gguf")
    # llama.cpp finds out that a head has fewer dimensions when it builds its graph, and aborts
    damaged(published / "micro-Q3_K_M.gguf", directory / "some-Q3_K_M.gguf", rotated=9999)
    damaged(published / "micro-Q4_K_S.gguf", directory / "some-Q4_K_S.gguf", renamed="blk.1.ffn_up.weight")
    report = fit(str(directory), [], parse_devices(["1GiB"]), FitOptions())
    assert [row.variant for row in report.rows] == ["gguf:BF16", "gguf:Q4_K_M"]
    lines = [note for note in report.notes if note.startswith("left out: ")]
    assert [line.split(": ")[1] for line in sorted(lines)] == [
        str(directory / f"some-{name}.gguf") for name in ("Q3_K_M", "Q4_K_S")
    ]
    assert "GGML_ASSERT" in sorted(lines)[0]
    assert "blk.1.ffn_up.weight" in sorted(lines)[1]
    said: list[str] = []
    found = planned(directory, tmp_path / "w", text, "all", said.append)
    assert names(found) == ["gguf:BF16", "gguf:Q4_K_M"]
    assert set(lines) <= set(said)
    for name in ("BF16", "Q4_K_M", "Q4_K_S"):
        (directory / f"some-{name}.gguf").unlink()
    with pytest.raises(InputError, match=r"has no GGUF file of a model that can be used: .*some-Q3_K_M.gguf: .*ASSERT"):
        fit(str(directory), [], parse_devices(["1GiB"]), FitOptions())


def test_files_of_another_model_are_left_out(published: Path, tmp_path: Path) -> None:
    """As in a folder with all models of a user."""
    for name in ("BF16", "Q4_K_M"):
        shutil.copy(published / f"micro-{name}.gguf", tmp_path)
    export(open_source("nano"), {"Q4_K_M": tmp_path / "nano-Q4_K_M.gguf"})
    found = open_directory(tmp_path)
    assert [file.name for file in found.files] == ["BF16", "micro-Q4_K_M"]
    (line,) = found.left_out
    assert line.startswith(f"left out: {tmp_path}/nano-Q4_K_M.gguf: is another model, qwen3 with ")
    problems = tuple(f"{number}.gguf: is damaged" for number in range(2_000))
    assert replace(found, problems=problems).left_out[-1] == f"left out: 1,990 more files of {tmp_path}"


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
    reason = f"which is itself quantized, because {quants} has no unquantized file"
    assert note == f"the reference is gguf:Q4_K_M, {reason}"
    with Store(tmp_path / "w" / "results.db") as store:
        assert {record.reference_reason for record in records(found.plan, store)} == {reason}
        assert describe_run(found.plan, store)["reference"] == f"gguf:Q4_K_M, {reason}"
    with pytest.raises(InputError, match=r"Q6_K: .* has no such quant, and no unquantized file to make it from"):
        planned(quants, tmp_path / "w", text, "=Q6_K")


def test_the_reference_can_be_a_file_of_the_user(published: Path, text: Path, tmp_path: Path) -> None:
    quants = tmp_path / "quants"
    quants.mkdir()
    shutil.copy(published / "micro-Q4_K_M.gguf", quants)
    found = planned(quants, tmp_path / "w", text, reference=published / "micro-BF16.gguf")
    assert names(found) == ["gguf:micro-BF16.gguf", "gguf:Q4_K_M"]
    assert found.plan.reference == "gguf:micro-BF16.gguf"
    assert found.plan.about["repository"]["reference"] == "which --reference names"
    base, windows = tmp_path / "base.kld", Windows(np.zeros((1, 16), np.int32), 8)
    with BaseFileWriter(base, windows, n_vocab=7) as writer:
        writer.append(writer.encode(0, np.zeros((7, 7), np.float32), np.zeros(7), np.zeros(7, int)))
    found = planned(quants, tmp_path / "w", text, reference=base)
    assert (found.plan.reference, names(found)) == ("file:base.kld", ["gguf:Q4_K_M"])
    assert found.plan.settings.window == 16
    assert str(found.precision) == "full (the reference is a file)"
    for wrong, message in (("Q9", "Q9: .* has no such file; it has Q4_K_M"), ("gguf:no.gguf", "there is no such file")):
        with pytest.raises(InputError, match=message):
            planned(quants, tmp_path / "w", text, reference=wrong)


def test_several_repositories_are_several_models(published: Path, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-GGUF"
    other.mkdir()
    shutil.copy(published / "micro-Q4_K_M.gguf", other)
    options = ("--variants", "=Q4_K_M", "--tasks", "none", "--perplexity", text, "--dry-run")
    done = call("run", published, other, *options, "--workspace", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert f"1 of 2: {published}" in done.stdout
    assert f"2 of 2: {other}" in done.stdout


MISFORTUNES = """
import resource, shutil
from sweep.jobs import download as job
fetched, published = job.download, job.publish

def download(repository, revision, part, *others):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if "full" in part.path:  # the disk is full
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        fetched(repository, revision, part, *others)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

def publish(partial, target):
    published(partial, target)
    if any("lost" in file.name for file in target.iterdir()):  # someone deletes the file
        shutil.rmtree(target)

job.download, job.publish = download, publish
"""


def sweep_on(
    url: str, folder: Path, text: Path, *arguments: str, tasks: str = "none"
) -> subprocess.CompletedProcess[str]:
    extension = folder / "misfortunes.py"
    extension.write_text(MISFORTUNES)
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
    environment["BITSWEEP_EXTENSIONS"] = str(extension)
    command = [*COMMAND, "run", *arguments, "--tasks", tasks, "--perplexity", str(text), "--format", "json"]
    command += ["--gpu", "12GiB", "--measure", "text,tasks", "--workspace", str(folder / "w")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def most_files(events: Sequence[dict[str, object]]) -> int:
    """The largest number of downloaded files that were on the disk at the same time. The variants of a file have its
    name before the first +."""
    left = Counter(
        str(label).rpartition("/")[0].partition("+")[0]
        for event in events
        if event["event"] == "started"
        for label in event["pending"]  # type: ignore[attr-defined]
    )
    on_disk: set[str] = set()
    most = 0
    for event in events:
        variant, _, job = str(event.get("cell", "")).rpartition("/")
        file = variant.partition("+")[0]
        if event["event"] == "cell_started" and job == "download":
            on_disk.add(file)
            most = max(most, len(on_disk))
        if str(event["event"]) in ("cell_done", "cell_failed", "cell_skipped"):
            left[file] -= 1
            if not left[file]:
                on_disk.discard(file)
    return most


def test_a_repository_is_measured_with_two_files_on_the_disk(published: Path, text: Path, tmp_path: Path) -> None:
    """Beside another publisher's, and with a broken connection, a disk that fills and a file that someone deletes."""
    directory, other = tmp_path / "repository", tmp_path / "other"
    shutil.copytree(published, directory)
    (directory / "micro-Q4_K_S.gguf").unlink()
    other.mkdir()
    broken = directory / "micro-Q3_K_M.gguf"
    for copy in (directory / "full-Q4_K_S.gguf", directory / "lost-IQ3_M.gguf", other / "micro-Q4_K_M.gguf"):
        with_metadata(broken, copy, general__description=copy.stem)
    size = sum(file.stat().st_size for file in [*directory.rglob("*.gguf"), *other.iterdir()])
    shutil.copy(directory / "micro-Q4_K_M.gguf", other / "micro-IQ4_NL.gguf")  # downloaded once
    kept = "=Q4_K_M,UD-Q2_K_XL,Q3_K_M,Q4_K_M+kv=q8_0,hub:two/micro-GGUF"
    with serve({"org/micro-GGUF": directory, "two/micro-GGUF": other}) as hub:
        hub.cut = lambda path, count: 0 if path == broken.name and count > 500_000 else count  # not its header
        done = sweep_on(hub.url, tmp_path, text, "org/micro-GGUF", "--variants", f"{kept},Q4_K_S,IQ3_M")
        assert done.returncode == 1, done.stderr
        assert size - broken.stat().st_size < hub.sent < size - broken.stat().st_size + 1_000_000  # with the headers
        last = json.loads(done.stdout.splitlines()[-1])
        found = {record["variant"]: record for record in last["records"]}
        assert {name: record["status"] for name, record in found.items()} == {
            "hub:BF16": "ok", "hub:org/Q4_K_M": "ok", "hub:org/Q4_K_M+kv=q8_0": "ok", "hub:UD-Q2_K_XL": "ok",
            "hub:two/Q4_K_M": "ok", "hub:IQ4_NL": "ok",
            "hub:Q3_K_M": "failed", "hub:Q4_K_S": "failed", "hub:IQ3_M": "partial",
        }  # fmt: skip
        caches = [found[name]["kv_type"] for name in ("hub:org/Q4_K_M", "hub:org/Q4_K_M+kv=q8_0")]
        assert caches == ["f16", "q8_0"]
        for name, message in (
            ("hub:Q3_K_M", "org/micro-GGUF/micro-Q3_K_M.gguf: the download broke at 0 of"),
            ("hub:Q4_K_S", "full-Q4_K_S.gguf: the disk is full or a quota is reached"),
            ("hub:Q4_K_S", "and run the command again; size, text: needs hub:Q4_K_S/download, which failed"),
            ("hub:IQ3_M", "lost-IQ3_M.gguf"),
        ):
            assert message in found[name]["error"]
            assert "\n" not in found[name]["error"]
        assert found["hub:IQ4_NL"]["divergence"] == found["hub:org/Q4_K_M"]["divergence"]
        assert found["hub:BF16"]["reference_reason"] == "an unquantized file of org/micro-GGUF"
        assert found[last["advice"]["variant"]]["status"] == "ok"
        left = list((tmp_path / "w").rglob("*.gguf"))  # of downloads that can go on
        assert {file.name for file in left} == {"full-Q4_K_S.gguf"}  # of the other nothing arrived
        assert all(file.parent.name.endswith(".partial") for file in left)
        (log,) = (tmp_path / "w" / "runs").glob("*/events.jsonl")
        assert most_files([json.loads(line) for line in log.read_text().splitlines()]) == 2

        def remove_after_download(_path: str, count: int) -> int:
            if count > 500_000:
                hub.models.clear()
            return count

        hub.sent, hub.cut = 0, remove_after_download
        done = sweep_on(hub.url, tmp_path, text, "org/micro-GGUF", "--variants", kept)
        assert done.returncode == 0, done.stderr  # although nobody knows any more what fits
        again = json.loads(done.stdout.splitlines()[-1])
        assert "--gpu 12GiB does not count, because what fits cannot be computed: " in again["notes"][0]
        assert hub.sent == broken.stat().st_size  # the only file that is still to be measured
        whole = {record["variant"]: record for record in again["records"]}
        assert whole.pop("hub:Q3_K_M")["status"] == "ok"
        assert whole == {name: record for name, record in found.items() if name in whole}


def test_names_with_a_slash_are_names_of_files(published: Path, text: Path, tmp_path: Path) -> None:
    """Files in folders, and files of two publishers, have names of the form OWNER/REPO. The advice asks for some of
    them again, here with a smaller KV cache, because nothing fits."""
    one, two = tmp_path / "one", tmp_path / "two"
    for copy in ("x/m-Q4_K_M", "y/m-Q4_K_M", "m-Q3_K_M"):
        (one / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(published / f"micro-{copy[-6:]}.gguf", one / f"{copy}.gguf")
    two.mkdir()
    shutil.copy(published / "micro-Q3_K_M.gguf", two)
    with serve({"org/m-GGUF": one, "two/m-GGUF": two}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        command = [*COMMAND, "fit", "org/m-GGUF", "--variants", "hub:two/m-GGUF", "--gpu", "1GiB", "--format", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, cwd=tmp_path)
        command = [*COMMAND, "run", "org/m-GGUF", "--variants", "all", "--tasks", "none", "--perplexity", str(text)]
        command += ["--workspace", str(tmp_path / "w"), "--dry-run"]
        planned = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    size = sum((one / f"{copy}.gguf").stat().st_size for copy in ("x/m-Q4_K_M", "m-Q3_K_M"))  # y has the same as x
    assert f" jobs to do; {size:,} bytes of files." in planned.stdout
    assert "x/m-Q4_K_M, hub:y/m-Q4_K_M: the same file, which is measured once" in planned.stderr
    assert done.returncode == 3, done.stderr
    assert sorted(row["variant"] for row in json.loads(done.stdout)["rows"]) == [
        "hub:org/Q3_K_M", "hub:two/Q3_K_M", "hub:x/m-Q4_K_M", "hub:y/m-Q4_K_M",
    ]  # fmt: skip


@pytest.mark.slow
def test_images_are_read_with_a_projector_file_of_the_repository(text: Path, tmp_path: Path) -> None:
    directory, source = tmp_path / "micro-vl-GGUF", open_source("micro-vl")
    directory.mkdir()
    export(source, {name: directory / f"micro-vl-{name}.gguf" for name in ("BF16", "Q4_K_M")})
    export(ProjectorSource(source), {name: directory / f"mmproj-{name}.gguf" for name in ("F16", "Q4_0")})
    size = sum(file.stat().st_size for file in directory.iterdir())
    with serve({"org/micro-vl-GGUF": directory}) as hub:
        options = ("org/micro-vl-GGUF", "--variants", "=Q4_K_M,Q4_K_M+mmproj=Q4_0", "--limit", "2")
        done = sweep_on(hub.url, tmp_path, text, *options, tasks="vl_form")
        assert done.returncode == 0, done.stderr
        assert size < hub.sent < size + 1_000_000
        last = json.loads(done.stdout.splitlines()[-1])
        reference, plain, other = last["records"]
        assert [one["tasks"]["vl_form"]["n"] for one in last["records"]] == [2, 2, 2]
        assert plain["divergence"] == other["divergence"]
        kld = [one["image_divergence"]["vl_form"]["kld_mean"] for one in (plain, other)]
        assert 0 < kld[0] < kld[1] / 2
        assert reference["projector"]["file_bytes"] == (directory / "mmproj-F16.gguf").stat().st_size
        assert not list((tmp_path / "w").rglob("*.gguf"))
        # The command names the files on the hub, not the copies of their headers
        for one in (last["advice"], *last["advice"]["alternatives"]):
            kind = "Q4_0" if one["variant"].endswith("Q4_0") else "F16"
            assert f"--mmproj-url {hub.url}/org/micro-vl-GGUF/resolve/main/mmproj-{kind}.gguf" in one["command"]
        hub.sent = 0
        done = sweep_on(hub.url, tmp_path, text, *options, tasks="vl_form")
        assert json.loads(done.stdout.splitlines()[-1])["records"] == last["records"]
        assert hub.sent == 0


PLANNED = """
import json, sys
from pathlib import Path
from converters.errors import InputError
from sweep.analysis.run_commands import run_commands
from sweep.execution.local import LocalHost
from sweep.planning.prepare import prepare
from sweep.planning.request import Request
plans = []
with LocalHost() as host:
    for model, variants, *look in json.loads(sys.argv[1]):
        request = Request(model, variants=variants, tasks=tuple(look) or ("none",), perplexity=(Path(sys.argv[2]),),
                          gpu=("12GiB",), workspace=Path(sys.argv[3]), window=64 if look else None)
        try:
            sweep = prepare(request, lambda _: None, host)
            plan, commands = sweep.plan, run_commands(sweep.plan, sweep.workspace)
            needs = {cell.label: [one.label for one in plan.cells if one.key in cell.needs] for cell in plan.cells}
            plans.append({"variants": plan.variants, "reference": plan.reference, "imatrix": plan.about["imatrix"],
                          "notes": plan.about.get("repository", {}).get("notes"), "needs": needs,
                          "commands": {name: [one.get, one.run] for name, one in commands.items()}})
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


def vision_repository(folder: Path) -> Path:
    """Files of a tiny vision model, with two projector files."""
    checkpoint, directory = folder / "looks", folder / "looks-GGUF"
    make_vision_model("qwen3vl", checkpoint)
    directory.mkdir()
    source = open_source(checkpoint)
    export(source, {name: directory / f"looks-{name}.gguf" for name in ("BF16", "Q8_0")})
    export(ProjectorSource(source), {name: directory / f"mmproj-{name}.gguf" for name in ("F16", "BF16")})
    return directory


def test_publishers_checkpoints_and_matrices_of_repositories(published: Path, text: Path, tmp_path: Path) -> None:
    names = ("two", "floats", "named", "tuned", "bad")
    two, floats, named, tuned, broken = folders = [tmp_path / name / "micro" for name in names]
    for folder in folders:
        folder.mkdir(parents=True)
    shutil.copy(published / "micro-Q4_K_M.gguf", two / "other-Q4_K_M.gguf")
    shutil.copy(published / "micro-BF16.gguf", floats)
    write_matrix(floats / "micro-imatrix.gguf")
    shutil.copy(published / "micro-BF16.gguf", broken)
    (broken / "micro-imatrix.gguf").write_text("This is no matrix.")
    key = "general__base_model__0__repo_url"
    quant = published / "micro-Q4_K_M.gguf"
    with_metadata(quant, named / "micro-Q4_K_M.gguf", **{key: "https://hub.example/maker/micro"})
    with_metadata(quant, tuned / "micro-Q4_K_M.gguf", **{key: "https://hub.example/maker/micro-base"})
    looks, task = vision_repository(tmp_path), tmp_path / "look.yaml"
    task.write_text("task: look\ndoc_to_image: [picture]\n")
    models = {"one/micro-GGUF": published, "maker/micro": MICRO.directory, "one/looks-GGUF": looks}
    models |= {f"{name}/micro-GGUF": folder for name, folder in zip(names, folders, strict=True)}
    asked = [
        ("one/micro-GGUF", "=Q4_K_M,Q4_K_M+kv=q8_0,hub:two/micro-GGUF"),
        ("micro", "=hub:two/micro-GGUF"),
        ("floats/micro-GGUF", "=Q2_K"),
        ("named/micro-GGUF", None),
        ("tuned/micro-GGUF", None),
        ("one/looks-GGUF", "=Q8_0,Q8_0+mmproj=BF16", str(task)),
        ("bad/micro-GGUF", "=Q2_K"),
        ("one/micro-GGUF", "=int8:sq"),
    ]
    with serve(models) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        arguments = [json.dumps(asked), str(text), str(tmp_path / "w")]
        command = [sys.executable, "-c", PLANNED, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    publishers, beside, made, original, base, images, bad, int8 = json.loads(done.stdout.splitlines()[-1])
    assert publishers["variants"] == ["hub:BF16", "hub:one/Q4_K_M", "hub:one/Q4_K_M+kv=q8_0", "hub:two/Q4_K_M"]
    assert publishers["notes"][-2].startswith("hub:one/Q4_K_M, hub:two/Q4_K_M: the same file")
    assert publishers["needs"]["hub:one/Q4_K_M+kv=q8_0/text"] == ["hub:one/Q4_K_M/download"]
    assert beside["variants"] == ["BF16", "hub:Q4_K_M"]
    assert made["variants"] == ["hub:BF16", "Q2_K"]
    assert made["needs"]["Q2_K/export"] == ["hub:BF16/download"]
    assert made["imatrix"] == "micro-imatrix.gguf"
    why = r"micro-imatrix.gguf: is not a GGUF file .*; it is the importance matrix of bad/micro-GGUF: give another one"
    assert re.search(why, bad["error"])
    assert int8["error"].startswith(
        "hub:one/micro-GGUF/micro-BF16.gguf: int8:sq is made from a Hugging Face checkpoint"
    )
    assert (original["variants"], original["reference"]) == (["BF16", "hub:Q4_K_M"], "BF16")
    assert "made from maker/micro, the original checkpoint that the header names" in original["notes"][-1]
    assert base["reference"] == "hub:Q4_K_M"
    assert base["notes"][0].startswith("the header names maker/micro-base, which is another model by its name")
    assert images["variants"] == ["hub:BF16", "hub:Q8_0", "hub:Q8_0+mmproj=BF16"]
    own = {label: needs for label, needs in images["needs"].items() if label.startswith("hub:Q8_0")}
    assert own["hub:Q8_0/text"] == ["hub:Q8_0/download"]
    assert own["hub:Q8_0/projector"] == ["hub:BF16/projector-download"]  # mmproj-F16.gguf, as that of hub:BF16
    assert {"hub:Q8_0/download", "hub:BF16/projector-download"} < set(own["hub:Q8_0/look"])
    other = own["hub:Q8_0+mmproj=BF16/look"]
    assert {"hub:Q8_0/download", "hub:Q8_0+mmproj=BF16/projector-download"} < set(other)
    assert "hub:BF16/projector-download" not in other
    get, run = images["commands"]["hub:Q8_0+mmproj=BF16"]
    place = f"{hub.url}/one/looks-GGUF/resolve/main/mmproj-BF16.gguf"
    assert run.startswith(f"llama-server -hf one/looks-GGUF --hf-file looks-Q8_0.gguf --mmproj-url {place} -c ")
    assert get == ""
