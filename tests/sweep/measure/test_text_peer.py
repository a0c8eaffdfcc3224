"""Perplexity and divergence equal those of llama-perplexity, on the built-in model and from llama.cpp's base file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import presets
from converters.export import export, open_source
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.measure.perplexity import cut_windows
from sweep.measure.reference import open_reference
from sweep.measure.text_measurement import measure_text
from sweep.record import Divergence

PEER = os.environ.get("BITSWEEP_LLAMA_PERPLEXITY") or "build/peers/bin/llama-perplexity"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists(PEER), reason=f"llama-perplexity is not built: {PEER}"),
]
MICRO = presets.builtin_models()["micro"]
BATCH = 256  # small, so that windows longer than a batch take little time


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """micro in three types, and a text of seven windows."""
    directory = tmp_path_factory.mktemp("micro")
    export(open_source(MICRO.directory, "micro"), {q: directory / f"{q}.gguf" for q in ("BF16", "Q8_0", "Q2_K")})
    (directory / "text").write_text(MICRO.text.read_text()[:12_000])
    return directory


def run_peer(last: str, *arguments: str | Path | int) -> str:
    """The output of llama-perplexity, which contains a match of `last`.

    Its logging thread often ends before it has printed the last lines; then it runs again. Its waiting threads do not
    spin, which would take most of the time while other processes run.
    """
    for _ in range(40):
        done = subprocess.run(
            [PEER, *map(str, arguments), "-t", "2"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
        if re.search(last, done.stdout + done.stderr):
            return done.stdout + done.stderr
    raise AssertionError(f"no {last} in {done.stdout[-1000:]} {done.stderr[-1000:]}")


def backend(file: Path, n_batch: int = 2048) -> LlamaBackend:
    return LlamaBackend(file, LlamaOptions(n_threads=2, n_batch=n_batch))


@pytest.mark.parametrize(("n_ctx", "n_batch"), [(128, 2048), (512, 2048), (768, 2048), (512, BATCH), (700, BATCH)])
def test_perplexity_equals_that_of_llama_perplexity(files: Path, n_ctx: int, n_batch: int) -> None:
    final = r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)\s"
    name, batches = files / "Q8_0.gguf", ("-b", n_batch, "-ub", min(512, n_batch))
    match = re.search(final, run_peer(final, "-m", name, "-f", files / "text", "-c", n_ctx, *batches))
    assert match
    model = backend(files / "Q8_0.gguf", n_batch)
    result = measure_text(model, cut_windows(model, (files / "text").read_text(), n_ctx=n_ctx)).perplexity
    model.close()
    assert result.value == pytest.approx(float(match[1]), rel=1e-4)
    assert result.stderr == pytest.approx(float(match[2]), rel=1e-3)


@pytest.mark.parametrize(("n_ctx", "stride"), [(512, 200), (256, 150)])
def test_perplexity_with_a_stride_equals_that_of_llama_perplexity(files: Path, n_ctx: int, stride: int) -> None:
    """llama-perplexity adds half the stride to its windows, rounds up to a multiple of 256, and prints the length."""
    name, text = files / "Q8_0.gguf", files / "text"
    longer = -(-(n_ctx + stride // 2) // 256) * 256
    model = backend(name, n_ctx)
    windows = cut_windows(model, text.read_text(), n_ctx=longer, stride=stride)
    result = measure_text(model, windows).perplexity
    model.close()
    last = rf"\[{len(windows.tokens)}\]([\d.]+),"
    answer = run_peer(last, "-m", name, "-f", text, "-c", n_ctx, "-b", n_ctx, "--ppl-stride", stride)
    assert f"Calculation chunk = {longer}\n" in answer
    assert f"computing over {len(windows.tokens)} chunks" in answer
    match = re.search(last, answer)
    assert match
    assert result.value == pytest.approx(float(match[1]), rel=1e-4)


PRINTED = r"(?<![\d.]){}\s*:\s*(-?[\d.]+)(?:\s+±\s+([\d.]+))?"
FIGURES = {  # printed name: name of our figure, name of its error, factor from our unit to the printed one
    r"Mean PPL\(base\)": ("perplexity_reference", "perplexity_reference_stderr", 1),
    r"Cor\(ln\(PPL\(Q\)\), ln\(PPL\(base\)\)\)": ("perplexity_correlation", None, 100),
    r"Mean ln\(PPL\(Q\)/PPL\(base\)\)": ("perplexity_log_ratio", "perplexity_log_ratio_stderr", 1),
    r"Mean PPL\(Q\)/PPL\(base\)": ("perplexity_ratio", "perplexity_ratio_stderr", 1),
    r"Mean PPL\(Q\)-PPL\(base\)": ("perplexity_difference", "perplexity_difference_stderr", 1),
    r"Mean\s+KLD": ("kld_mean", "kld_token_stderr", 1),
    r"Mean\s+Δp": ("delta_p_mean", "delta_p_stderr", 100),
    r"RMS Δp": ("delta_p_rms", "delta_p_rms_stderr", 100),
    r"Same top p": ("top1_agreement", "top1_stderr", 100),
}
NAMES = {"Minimum": "0", "Median": "50", "Maximum": "100"}


def percentile_names(kind: str, figures: dict[str, float]) -> dict[str, str]:
    """The printed name of each of our percentiles."""
    words = {number: word for word, number in NAMES.items()}
    return {key: rf"{words[key] if key in words else f'{float(key):.1f}%'}\s+{kind}" for key in figures}


def check(answer: str, figures: Divergence) -> None:
    """Every printed figure equals ours, within a relative 1e-4 or one unit of its last digit.

    Half of a unit is rounding. The rest is float32, in which llama-perplexity adds up the divergence of a position: on
    some CPUs, small percentiles differ by 3e-7.
    """
    expected: list[tuple[str, float, float | None]] = []
    for pattern, (name, error, units) in FIGURES.items():
        stderr = None if error is None else units * getattr(figures, error)
        expected.append((pattern, units * getattr(figures, name), stderr))
    for kind, values, units in (("KLD", figures.kld_percentiles, 1), ("Δp", figures.delta_p_percentiles, 100)):
        names = percentile_names(kind, values)
        expected += [(names[key], units * value, None) for key, value in values.items()]
    assert len(expected) == len(FIGURES) + 11 + 13
    for pattern, value, stderr in expected:
        match = re.search(PRINTED.format(pattern), answer)
        assert match, pattern
        for printed, ours in ((match[1], value), (match[2], stderr)):
            if ours is not None:
                digits = len(printed.partition(".")[2])
                assert ours == pytest.approx(float(printed), rel=1e-4, abs=1.01 * 10**-digits), pattern
    assert figures.kld_p99_9 == figures.kld_percentiles["99.9"]
    assert figures.kld_max == figures.kld_percentiles["100"]


@pytest.mark.parametrize("n_ctx", [512, 300])
@pytest.mark.parametrize("quant", ["Q2_K", "Q8_0"])
def test_every_figure_from_a_base_file_equals_that_of_llama_perplexity(
    files: Path, tmp_path: Path, quant: str, n_ctx: int
) -> None:
    text, base, own, exact = files / "text", tmp_path / "base", tmp_path / "own", tmp_path / "exact"
    run_peer("", "-m", files / "BF16.gguf", "-f", text, "-c", n_ctx, "--kl-divergence-base", base)
    reference = backend(files / "BF16.gguf")
    windows = cut_windows(reference, text.read_text(), n_ctx=n_ctx)
    measured = measure_text(reference, windows, write_base_file=own, write_reference=exact)
    reference.close()
    model = backend(files / f"{quant}.gguf")
    # both programs read both files
    for file in (base, own):
        compared = ("-m", files / f"{quant}.gguf", "-c", n_ctx, "--kl-divergence", "--kl-divergence-base", file)
        answer = run_peer(r"Same top p: +[\d.]+ ± +[\d.]+ %", *compared)
        result = measure_text(model, windows, reference=open_reference(file))
        assert result.divergence is not None
        check(answer, result.divergence.figures)
    printed = re.search(PRINTED.format(r"Mean PPL\(Q\)"), answer)
    assert printed
    assert result.perplexity.value == pytest.approx(float(printed[1]), rel=1e-5)
    assert result.perplexity.stderr == pytest.approx(float(printed[2]), rel=1e-4)
    # the reference file of this program clips nothing
    true = measure_text(model, windows, reference=open_reference(exact)).divergence
    model.close()
    assert true is not None
    assert true.figures.perplexity_reference == pytest.approx(measured.perplexity.value, rel=1e-6)
    assert true.figures.kld_percentiles["0"] >= 0.0 > result.divergence.figures.kld_percentiles["0"]
    assert own.stat().st_size == base.stat().st_size


def test_every_figure_with_another_kv_cache_equals_that_of_llama_perplexity(files: Path, tmp_path: Path) -> None:
    """The reference has an f16 cache, as in a sweep."""
    text, base = files / "text", tmp_path / "base"
    reference = backend(files / "BF16.gguf")
    windows = cut_windows(reference, text.read_text(), n_ctx=512)
    measure_text(reference, windows, write_base_file=base)
    reference.close()
    for quant, type_k, type_v in (("Q8_0", "q8_0", "q8_0"), ("BF16", "q8_0", "f16")):
        file = files / f"{quant}.gguf"
        compared = ("-m", file, "-c", 512, "--kl-divergence", "--kl-divergence-base", base)
        answer = run_peer(r"Same top p: +[\d.]+ ± +[\d.]+ %", *compared, "-ctk", type_k, "-ctv", type_v)
        with_cache = LlamaBackend(file, LlamaOptions(n_threads=2, type_k=type_k, type_v=type_v))
        result = measure_text(with_cache, windows, reference=open_reference(base))
        with_cache.close()
        assert result.divergence is not None
        check(answer, result.divergence.figures)


def test_llama_perplexity_reads_the_base_file_that_eval_writes(files: Path, tmp_path: Path) -> None:
    base, text = tmp_path / "base.kld", files / "text"
    command = [sys.executable, "-c", "from sweep.cli import main; main()", "eval", files / "BF16.gguf"]
    command += ["--perplexity", text, "--write-base", base, "--workspace", tmp_path / "w", "--format", "json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    (measured,) = json.loads(done.stdout.splitlines()[-1])["records"]
    last = r"Same top p\s*:\s*([\d.]+)"
    read = ("--kl-divergence", "--kl-divergence-base", base, "-f", text)
    own = run_peer(last, "-m", files / "BF16.gguf", *read)
    mean, top = re.search(r"Mean\s+KLD:\s*(-?[\d.]+)", own), re.search(last, own)
    assert mean
    assert top
    assert abs(float(mean[1])) < 1e-3  # not 0, because the rows of a base file are rounded to 16 bits and clipped
    assert float(top[1]) > 99.5
    theirs = tmp_path / "theirs.kld"
    run_peer(r"Final estimate", "-m", files / "BF16.gguf", "-f", text, "--kl-divergence-base", theirs)
    assert theirs.stat().st_size == base.stat().st_size
    quantized = [run_peer(last, "-m", files / "Q2_K.gguf", *read[:2], file, "-f", text) for file in (base, theirs)]
    klds = [re.search(r"Mean\s+KLD:\s*(-?[\d.]+)", answer) for answer in quantized]
    assert klds[0]
    assert klds[1]
    assert float(klds[0][1]) == pytest.approx(float(klds[1][1]), abs=1e-4)
    assert measured["status"] == "ok"
