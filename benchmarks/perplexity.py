"""Perplexity and KL divergence compared with llama-perplexity: whole processes in turn, on the same text and files.

    make peers && python benchmarks/perplexity.py [--layers 28] [--chunks 64] [--repetitions 3] [--dir DIR]

The model has Qwen3-0.6B's shape, random weights and Qwen's vocabulary of 151,936 tokens. Perplexity is measured on one
file, KL divergence from BF16 on four. llama-perplexity writes its base file and reads it four times. A sweep runs its
workers, each started while the one before is running; the first writes the reference and also measures its noise floor.
Both sides use one thread per core. The GGUF files exist before and stay in the page cache. Finally, a profile of the
first file shows the time of a pass in addition to decoding.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import TOKENIZER, machine, make_checkpoint, say  # benchmarks/export.py

from converters.export import export, open_source
from sweep.artefact import Artefact
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.devices import threads
from sweep.execution.local import LocalExecutor
from sweep.execution.protocol import Failed, Finished, Order
from sweep.jobs.inputs import TextFile
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.text import TextJob
from sweep.measure.perplexity import Windows, cut_windows
from sweep.measure.reference import open_reference
from sweep.measure.text_measurement import measure_text

ROOT = Path(__file__).parents[1]
PEER = ROOT / "build/peers/bin/llama-perplexity"
TEXT = ROOT.parent / "shared/data/wikitext2/wiki.test.raw"
BASE, VARIANTS = "BF16", ("Q8_0", "Q6_K", "Q4_K_M", "Q2_K")
N_CTX = 512
BARS = {"perplexity": 1.0, "divergence": 0.6, "disk": 0.05}


@dataclass(frozen=True)
class Setting:
    """The paths of all files, and the number of windows."""

    directory: Path
    text: Path
    chunks: int

    def gguf(self, quant: str) -> Path:
        return self.directory / f"{quant}.gguf"

    @property
    def base_file(self) -> Path:
        return self.directory / "base.kld"

    @property
    def reference(self) -> Path:
        return self.directory / "reference.logprobs"


def prepared(directory: Path, tokenizer: Path, source: Path, layers: int, chunks: int) -> Setting:
    """Make the model in all types and a text of `chunks` windows. Existing files are kept."""
    model = directory / f"model-{layers}"
    make_checkpoint(model, tokenizer, layers)
    made = Setting(directory / f"gguf-{layers}", directory / f"text-{chunks}", chunks)
    made.directory.mkdir(exist_ok=True)
    missing = {quant: made.gguf(quant) for quant in (BASE, *VARIANTS) if not made.gguf(quant).exists()}
    if missing:
        export(open_source(model, model.name), missing)
    made.text.write_text(beginning(source, tokenizer, chunks * N_CTX + N_CTX // 2), encoding="utf-8")
    return made


def beginning(source: Path, tokenizer: Path, n_tokens: int) -> str:
    """The first `n_tokens` tokens of a text file."""
    from tokenizers import Tokenizer

    text = source.read_text(encoding="utf-8")[: 12 * n_tokens]
    offsets = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode(text).offsets
    if len(offsets) < n_tokens:
        raise SystemExit(f"{source}: has {len(offsets)} tokens, but {n_tokens} are needed; choose fewer --chunks")
    return text[: offsets[n_tokens - 1][1]]


def peer(at: Setting, quant: str, *more: str | Path) -> str:
    """Run llama-perplexity once, and return its output."""
    command = [PEER, "-m", at.gguf(quant), "-f", at.text, "-c", N_CTX, "--chunks", at.chunks, "-t", threads(), *more]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: failed\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout + done.stderr


def peers_divergence(at: Setting) -> None:
    at.base_file.unlink(missing_ok=True)
    peer(at, BASE, "--kl-divergence-base", at.base_file)
    for quant in VARIANTS:
        peer(at, quant, "--kl-divergence", "--kl-divergence-base", at.base_file)


def ours(at: Setting, cells: list[tuple[str, Path | None, Path | None]]) -> list[Any]:
    """Run text jobs as a sweep does. Each cell is (quant, reference to compare with, reference to write)."""
    text, results = TextFile("text", Artefact.of(at.text), ""), []
    with LocalExecutor(at.directory, at.directory, ComputeResources(threads())) as executor:
        for i, (quant, known, written) in enumerate(cells):
            model = MeasuredModel("gguf", Artefact.of(at.gguf(quant)), "", "", Settings(window=N_CTX))
            known_file, written_file = (None if file is None else Artefact.of(file) for file in (known, written))
            job = TextJob(model, text, reference=known_file, distributions=written_file)
            executor.submit(Order(quant, (job,), quant, "ours"))
            if i + 1 < len(cells):
                executor.expect(cells[i + 1][0], "ours")
            while not isinstance(answer := executor.answer(60), Finished):
                if isinstance(answer, Failed):
                    raise SystemExit(f"{quant}: {answer.message}")
            results += answer.results
    return results


def ours_divergence(at: Setting) -> None:
    at.reference.unlink(missing_ok=True)
    ours(at, [(BASE, None, at.reference), *((quant, at.reference, None) for quant in VARIANTS)])


def timed(turns: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Wall seconds of each turn. Every other repetition takes the turns in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(repetitions):
        for name in list(turns)[:: -1 if number % 2 else 1]:
            os.sync()
            start = time.perf_counter()
            turns[name]()
            seconds[name].append(time.perf_counter() - start)
            say(f"{number + 1} of {repetitions}: {name} {seconds[name][-1]:.1f} s")
    return seconds


def profile(at: Setting, quant: str, repetitions: int) -> dict[str, float]:
    """Minimum seconds of a pass in this process: only decoding, and with the work in addition to it."""
    backend = LlamaBackend(at.gguf(quant), LlamaOptions(n_threads=threads()))
    windows = cut_windows(backend, at.text.read_text(encoding="utf-8"), n_ctx=N_CTX)
    passes: dict[str, Callable[[], object]] = {
        "only decoding": lambda: decode(backend, windows),
        "perplexity": lambda: measure_text(backend, windows),
        "perplexity, writing the reference": lambda: measure_text(
            backend, windows, write_reference=at.directory / "profile.logprobs"
        ),
        "divergence from our reference": lambda: measure_text(backend, windows, reference=open_reference(at.reference)),
        "divergence from llama.cpp's base file": lambda: measure_text(
            backend, windows, reference=open_reference(at.base_file)
        ),
    }
    found = {name: min(each) for name, each in timed(passes, repetitions).items()}
    backend.close()
    return found


def decode(backend: LlamaBackend, windows: Windows) -> None:
    for part in backend.windows(windows.tokens, windows.first):
        part.logits[0, 0]


def agreement(at: Setting, quant: str) -> str:
    """Our perplexity and llama-perplexity's on the same file."""
    value = ours(at, [(quant, None, None)])[0].perplexity.value
    for _ in range(20):  # its logging thread may end before it has printed the last lines
        if match := re.search(rf"\[{at.chunks}\]([\d.]+),", peer(at, quant)):
            theirs = float(match[1])
            relative = f"relative difference {abs(value / theirs - 1):.1e}"
            return f"PPL of {quant}: {value:.4f} by sweep, {theirs:.4f} by llama-perplexity ({relative})"
    return f"PPL of {quant}: {value:.4f} by sweep; llama-perplexity's last line was lost"


def table(rows: dict[str, list[float]], tokens: int) -> str:
    lines = ["| process | minimum s | median s | tokens/s |", "|---|--:|--:|--:|"]
    for name, seconds in rows.items():
        passes = 1 if "perplexity" in name.partition(":")[0] else 1 + len(VARIANTS)
        middle = statistics.median(seconds)
        lines.append(f"| {name} | {min(seconds):.1f} | {middle:.1f} | {passes * tokens / middle:.0f} |")
    return "\n".join(lines)


def claims(rows: dict[str, list[float]], disk: float) -> str:
    def ratio(kind: str, upside_down: bool) -> list[float]:
        pairs = [[take(rows[f"{kind}: {who}"]) for who in ("ours", "llama-perplexity")] for take in TAKE]
        return [theirs / mine if upside_down else mine / theirs for mine, theirs in pairs]

    lines = ["| claim | bound | median | minimum | |", "|---|--:|--:|--:|---|"]
    for text, bound, found, at_least in (
        ("perplexity: tokens/s over llama-perplexity's", BARS["perplexity"], ratio("perplexity", True), True),
        ("divergence of four: wall time over its", BARS["divergence"], ratio("divergence", False), False),
        ("divergence: disk over its base file", BARS["disk"], [disk, disk], False),
    ):
        met = all(one >= bound if at_least else one <= bound for one in found)
        figures = " | ".join(f"{one:.3f}" for one in found)
        lines.append(f"| {text} | {'≥' if at_least else '≤'} {bound} | {figures} | {'met' if met else 'missed'} |")
    return "\n".join(lines)


TAKE: tuple[Callable[[list[float]], float], ...] = (statistics.median, min)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28, help="number of layers; fewer give a smaller model")
    parser.add_argument("--chunks", type=int, default=16, help="windows of 512 tokens, a multiple of 4")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="directory that keeps models and files; default: a temporary one")
    parser.add_argument("--text", type=Path, default=TEXT, help="a text file")
    parser.add_argument(
        "--tokenizer", type=Path, default=TOKENIZER, help="directory with the tokenizer of a Qwen model"
    )
    arguments = parser.parse_args()
    for needed, remedy in (
        (PEER, "run `make peers`"),
        (arguments.text, "give --text"),
        (arguments.tokenizer / "tokenizer.json", "give --tokenizer"),
    ):
        if not needed.exists():
            raise SystemExit(f"{needed}: is missing; {remedy}")
    with tempfile.TemporaryDirectory() if arguments.dir is None else nullcontext(arguments.dir) as name:
        directory = Path(name).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        say("writing the model")
        at = prepared(directory, arguments.tokenizer, arguments.text, arguments.layers, arguments.chunks)
        compared = agreement(at, VARIANTS[0])  # from here on the files are cached
        rows = timed(
            {
                "perplexity: llama-perplexity": lambda: peer(at, VARIANTS[0]),
                "perplexity: ours": lambda: ours(at, [(VARIANTS[0], None, None)]),
                "divergence: llama-perplexity": lambda: peers_divergence(at),
                "divergence: ours": lambda: ours_divergence(at),
            },
            arguments.repetitions,
        )
        sizes = [file.stat().st_size for file in (at.reference, at.base_file)]
        passes = profile(at, VARIANTS[0], arguments.repetitions)
    tokens = arguments.chunks * N_CTX
    print(f"{machine()}; {threads()} threads; {arguments.layers} layers, {arguments.chunks} windows of {N_CTX} tokens")
    print(f"\n{compared}. Disk: {sizes[0]:,} bytes by sweep, {sizes[1]:,} by llama-perplexity.\n")
    print(f"{table(rows, tokens)}\n\n{claims(rows, sizes[0] / sizes[1])}\n")
    print(f"| a pass over {VARIANTS[0]} in one process | s | more than decoding |\n|---|--:|--:|")
    for pass_, seconds in passes.items():
        print(f"| {pass_} | {seconds:.2f} | {seconds / passes['only decoding'] - 1:+.1%} |")


if __name__ == "__main__":
    main()
