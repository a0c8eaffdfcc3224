"""The reference: chosen by memory, named in every record, and never mixed with another one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from plans import planned as plan_of

import presets
from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.commands.run import prepare
from sweep.defaults import MARGIN_BYTES
from sweep.devices import ALL_LAYERS, MachineMemory
from sweep.jobs.inputs import TextFile
from sweep.jobs.settings import Settings
from sweep.jobs.text import TextJob
from sweep.measure.basefile import BaseFileWriter
from sweep.measure.perplexity import Windows
from sweep.planning.baseline import ReferenceFile, auto_reference, find_reference, gpu_layers
from sweep.planning.request import Request
from sweep.results.plan import Plan

GIB = 1 << 30
MICRO = presets.builtin_models()["micro"]


def base_file(path: Path, n_vocab: int = 7, n_windows: int = 2, n_ctx: int = 16, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    windows = Windows(rng.integers(0, n_vocab, (n_windows, n_ctx), dtype=np.int32), n_ctx // 2)
    logits = rng.standard_normal((n_windows * windows.rows_each, n_vocab), np.float32)
    with BaseFileWriter(path, windows, n_vocab=n_vocab) as writer:
        writer.append(writer.encode(0, logits, np.zeros(len(logits)), np.zeros(len(logits), int)))
    return path


def planned(reference: str, file: ReferenceFile | None = None, layers: int | None = None) -> Plan:
    settings = Settings(gpu_layers=0 if layers is None else ALL_LAYERS)
    text = TextFile("words", Artefact("/words"), "w")
    return plan_of(
        "Q8_0", "BF16", "Q2_K", text=text, reference=reference, settings=settings, reference_file=file,
        reference_layers=layers,
    )  # fmt: skip


def text_jobs(plan: Plan) -> dict[str, TextJob]:
    return {cell.variant: cell.job for cell in plan.cells if isinstance(cell.job, TextJob)}


def text_keys(plan: Plan) -> dict[str, str]:
    return {cell.variant: cell.key for cell in plan.cells if cell.kind == "text"}


def test_the_automatic_reference_is_bf16_if_it_fits_and_q8_0_otherwise() -> None:
    assert auto_reference(10 * GIB, MachineMemory(0, 16 * GIB)) == "BF16"
    assert auto_reference(20 * GIB, MachineMemory(0, 16 * GIB)) == "Q8_0"
    assert auto_reference(20 * GIB, MachineMemory(24 * GIB, 16 * GIB)) == "BF16"
    assert auto_reference(24 * GIB, MachineMemory(24 * GIB, 16 * GIB)) == "Q8_0"  # the margin of the GPU cannot be used
    assert auto_reference(24 * GIB, MachineMemory(12 * GIB, 64 * GIB)) == "BF16"  # with partial offload


def test_a_model_that_is_larger_than_the_gpu_is_offloaded_partly() -> None:
    assert gpu_layers(8 * GIB, 36, MachineMemory(0, 64 * GIB)) == 0
    assert gpu_layers(8 * GIB, 36, MachineMemory(12 * GIB, 64 * GIB)) == ALL_LAYERS
    some = gpu_layers(74 * GIB, 36, MachineMemory(12 * GIB, 128 * GIB))
    assert 0 < some < 36
    assert some * 74 * GIB / 37 <= 12 * GIB - MARGIN_BYTES < (some + 1) * 74 * GIB / 37
    assert gpu_layers(74 * GIB, 36, MachineMemory(GIB // 2, 128 * GIB)) == 0


def test_no_two_references_share_a_result(tmp_path: Path) -> None:
    files = [base_file(tmp_path / "one.kld"), base_file(tmp_path / "two.kld", seed=1)]
    plans = [planned(reference) for reference in ("BF16", "Q8_0")]
    for file in files:
        found = find_reference(str(file))
        assert isinstance(found, ReferenceFile)
        plans.append(planned(found.name, found))
    compared = [key for plan in plans for name, key in text_keys(plan).items() if name == "Q2_K"]
    assert len(set(compared)) == 4
    assert text_keys(plans[0])["BF16"] != text_keys(plans[1])["BF16"]  # the reference, and compared with Q8_0
    assert len({plan.run for plan in plans}) == 4
    by_file = text_jobs(plans[2]).values()
    assert {job.reference for job in by_file} == {Artefact.of(files[0])}
    assert {job.output for job in by_file} == {None}
    again = ReferenceFile(base_file(tmp_path / "copy.kld"), 16, 8)
    assert text_keys(planned(again.name, again)) == text_keys(plans[2])  # content counts, not the name


def test_only_the_reference_is_placed_by_its_own_size() -> None:
    plan = planned("BF16", layers=11)
    placed = {variant: job.model.settings.gpu_layers for variant, job in text_jobs(plan).items()}
    assert placed == {"BF16": 11, "Q8_0": ALL_LAYERS, "Q2_K": ALL_LAYERS}
    assert text_keys(plan) != text_keys(planned("BF16", layers=12))


def test_a_reference_file_decides_window_and_stride(tmp_path: Path) -> None:
    file = find_reference(str(base_file(tmp_path / "base.kld")))
    assert isinstance(file, ReferenceFile)
    assert (file.window(None), file.window(16), file.stride(None)) == (16, 16, None)
    assert ReferenceFile(file.path, 16, 11).stride(None) == 4
    for wrong in (lambda: file.window(512), lambda: file.stride(3)):
        with pytest.raises(InputError, match=r"base\.kld: "):
            wrong()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Q4_K_X", "did you mean"),
        ("/no/such.kld", "there is no such reference"),
        ("gguf:/no/such.gguf", "there is no such file"),
        ("model.gguf", "is not a GGUF file"),
        ("words.txt", "neither a reference file nor a base file"),
        ("short.kld", "bytes, but by its header it should have"),
    ],
)
def test_a_wrong_reference_is_rejected_before_any_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "words.txt").write_text("words")
    base_file(tmp_path / "short.kld")
    (tmp_path / "short.kld").write_bytes((tmp_path / "short.kld").read_bytes()[:-1])
    known = {file.name for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message):
        prepare(Request(reference=str(tmp_path / name) if name in known else name, workspace=tmp_path / "w"), print)
    assert not (tmp_path / "w").exists()


def test_the_reference_is_the_first_variant(tmp_path: Path) -> None:
    request = Request(variants="=Q2_K,Q4_0", tasks=("none",), workspace=tmp_path, reference="Q8_0")
    plan = prepare(request, print).plan
    assert (plan.reference, plan.variants) == ("Q8_0", ("Q8_0", "Q2_K", "Q4_0"))
    whole = prepare(Request(tasks=("none",), workspace=tmp_path, reference="Q6_K"), print).plan
    assert whole.reference == whole.variants[0] == "Q6_K"
    assert "BF16" not in whole.variants
    chosen = prepare(Request(variants="=Q2_K", tasks=("none",), workspace=tmp_path, reference="auto"), print).plan
    assert (chosen.reference, chosen.variants) == ("BF16", ("BF16", "Q2_K"))
    with pytest.raises(InputError, match="--window 100000 is more than the"):
        prepare(Request(window=100_000, workspace=tmp_path), print)
    with pytest.raises(InputError, match="--stride 256: it must be smaller than the window of 256"):
        prepare(Request(window=256, stride=256, workspace=tmp_path), print)


def test_a_reference_file_of_another_model_is_rejected_before_any_work(tmp_path: Path) -> None:
    base = base_file(tmp_path / "foreign.kld", n_ctx=512)
    (tmp_path / "text").write_text(MICRO.text.read_text()[:8_000])
    options = ["--variants", "=Q8_0", "--tasks", "none", "--perplexity", tmp_path / "text", "--reference", base]
    options += ["--workspace", tmp_path / "w", "--format", "json"]
    done = call("run", *options)
    assert done.returncode == 2, done.stderr
    assert "foreign.kld: the reference has a vocabulary of 7 tokens, this model of 1536" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "refused"
