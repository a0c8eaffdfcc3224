"""A sweep of a model, compared with running llama.cpp's tools one after another for the same results.

    make peers && python benchmarks/whole_sweep.py [--repetitions 3] [--model micro] [--precision 5%]
    python benchmarks/whole_sweep.py --model FILE.gguf --text wiki.test.raw --precision 5% --peer-chunks 64

Both sides make the plain quants of q2-q8, and measure perplexity and KL divergence from BF16 on the model's text in
windows of 512 tokens. The peers are one llama-quantize per quant, llama-perplexity with --kl-divergence-base for BF16,
and llama-perplexity with --kl-divergence for each other quant. They start from a BF16 file, because llama.cpp's
converter does not support the built-in model's tokenizer. `sweep run` starts from the checkpoint, each time in a new
workspace; its time includes the memory of each variant, and with --measure speed,text also the speed. With --precision
it reads only as many windows as the answer needs. A GGUF file that is already quantized is quantized again by both
sides. With --peer-chunks N, llama-perplexity reads the first N windows only, and its time is multiplied, because it
reads all windows in the same way; this is for texts that take it hours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from export import ROOT, machine

import presets
from converters.export import export
from converters.recipes import PLAIN
from converters.resolver import open_source
from sweep import devices
from sweep.backends.llama import LlamaBackend
from sweep.measure.perplexity import cut_windows
from sweep.planning import preset

TOOLS = ROOT / "build/peers/bin"
BOUND = 0.5


def peers(bf16: Path, text: Path, quants: list[str], directory: Path, chunks: int | None, windows: int) -> float:
    """Seconds that the tools take in sequence for all `windows`, of which llama-perplexity reads `chunks`."""
    threads = str(devices.threads())
    read = [] if chunks is None else ["--chunks", str(chunks)]
    perplexity: list[str | Path] = [TOOLS / "llama-perplexity", "-c", "512", "-t", threads, *read]
    perplexity += ["--kl-divergence-base", directory / "base"]
    made: list[list[str | Path]] = []
    measured = [[*perplexity, "-m", bf16, "-f", text]]
    for quant in quants:
        file = directory / f"{quant}.gguf"
        made.append([TOOLS / "llama-quantize", "--allow-requantize", bf16, file, quant, threads])
        measured.append([*perplexity, "--kl-divergence", "-m", file])
    return _timed(made) + _timed(measured) * (1 if chunks is None else windows / chunks)


def ours(given: argparse.Namespace, quants: list[str], directory: Path) -> float:
    """Seconds that `sweep run` takes."""
    command = [sys.executable, "-c", "from sweep.cli import main; main()", "run", given.model, "--requantize"]
    command += ["--variants", "=" + ",".join(quants), "--tasks", "none", "--measure", given.measure]
    command += [] if given.text is None else ["--perplexity", given.text]
    command += ["--precision", given.precision, "--workspace", directory / "workspace", "--format", "quiet"]
    return _timed([command])


def spent(directory: Path) -> Counter[str]:
    """Kind of job -> seconds in the sweep, from its events."""
    seconds: Counter[str] = Counter()
    (log,) = (directory / "workspace/runs").glob("*/events.jsonl")
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "cell_done":
            seconds[event["cell"].partition("/")[2]] += event["seconds"]
    return seconds


def _timed(commands: list[list[str | Path]]) -> float:
    began = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--model", default="micro", help="a built-in model, or a GGUF file with --text")
    parser.add_argument("--text", type=Path, help="instead of the built-in model's own")
    parser.add_argument("--quants", help="default: the plain quants of q2-q8")
    parser.add_argument("--measure", default="speed,text")
    parser.add_argument("--precision", default="full")
    parser.add_argument("--peer-chunks", type=int)
    given = parser.parse_args()
    if not (TOOLS / "llama-perplexity").exists():
        raise SystemExit("llama.cpp's tools are missing: run `make peers`")
    builtin = presets.builtin_models().get(given.model)
    source = open_source(given.model if builtin is None else builtin.directory, Path(given.model).stem, requantize=True)
    text = given.text if builtin is None else given.text or builtin.text
    if text is None:
        raise SystemExit("a GGUF file needs --text FILE")
    quants = [name for name in preset.load("q2-q8").variants if name in PLAIN and name != "BF16"]
    quants = quants if given.quants is None else given.quants.split(",")
    turns: list[dict[str, float]] = []
    cells: list[Counter[str]] = []
    for turn in range(given.repetitions):
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            bf16 = directory / "BF16.gguf"
            export(source, {"BF16": bf16})
            windows = len(cut_windows(LlamaBackend(bf16), text.read_text(encoding="utf-8"), n_ctx=512).tokens)
            sides = {
                "peers": partial(peers, bf16, text, quants, directory, given.peer_chunks, windows),
                "sweep": partial(ours, given, quants, directory),
            }
            order = list(sides) if turn % 2 == 0 else list(reversed(sides))
            turns.append({side: sides[side]() for side in order})
            cells.append(spent(directory))
    print(f"{machine()}; {Path(given.model).stem}; {', '.join(quants)} against BF16")
    print(f"{windows} windows; precision {given.precision}", end="; ")
    print(f"llama-perplexity reads {given.peer_chunks or 'all'}; repetitions: {given.repetitions}\n")
    print("| side | seconds, median | all |\n|---|--:|---|")
    for side in ("peers", "sweep"):
        seconds = [turn[side] for turn in turns]
        print(f"| {side} | {statistics.median(seconds):.1f} | {' '.join(f'{each:.1f}' for each in seconds)} |")
    for kind in cells[0]:
        seconds = [turn[kind] for turn in cells]
        every = " ".join(f"{each:.1f}" for each in seconds)
        print(f"| of the sweep: {kind} | {statistics.median(seconds):.1f} | {every} |")
    ratio = statistics.median(turn["sweep"] / turn["peers"] for turn in turns)
    print(f"\nsweep over peers: {ratio:.2f} (bound {BOUND}: {'met' if ratio <= BOUND else 'missed'})")


if __name__ == "__main__":
    main()
