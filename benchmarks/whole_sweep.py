"""A sweep of the built-in model, compared with running llama.cpp's tools one after another for the same results.

    make peers && python benchmarks/whole_sweep.py [--repetitions 3] [--model micro]

Both sides make the plain quants of q2-q8, and measure perplexity and KL divergence from BF16 on the model's text in
windows of 512 tokens. The peers are one llama-quantize per quant, llama-perplexity with --kl-divergence-base for BF16,
and llama-perplexity with --kl-divergence for each other quant. They start from a BF16 file, because llama.cpp's
converter does not support the built-in model's tokenizer. `sweep run` starts from the checkpoint, each time in a new
workspace; its time includes the speed and memory of each variant, which it always measures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from export import ROOT, machine

import presets
from converters.export import export
from converters.recipes import PLAIN
from converters.resolver import open_source
from sweep.planning import preset

TOOLS = ROOT / "build/peers/bin"
BOUND = 0.5


def peers(bf16: Path, text: Path, quants: list[str], directory: Path) -> float:
    """Seconds that the tools take in sequence."""
    threads = str(os.cpu_count())
    perplexity = [TOOLS / "llama-perplexity", "-c", "512", "-t", threads, "--kl-divergence-base", directory / "base"]
    commands = [[*perplexity, "-m", bf16, "-f", text]]
    for quant in quants:
        file = directory / f"{quant}.gguf"
        commands.append([TOOLS / "llama-quantize", bf16, file, quant, threads])
        commands.append([*perplexity, "--kl-divergence", "-m", file])
    return _timed(commands)


def ours(model: str, quants: list[str], directory: Path) -> float:
    """Seconds that `sweep run` takes."""
    variants = "=" + ",".join(quants)
    command = [sys.executable, "-c", "from sweep.cli import main; main()", "run", model, "--variants", variants]
    return _timed([[*command, "--tasks", "none", "--workspace", directory / "workspace", "--format", "quiet"]])


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
    parser.add_argument("--model", default="micro", choices=sorted(presets.builtin_models()))
    given = parser.parse_args()
    if not (TOOLS / "llama-perplexity").exists():
        raise SystemExit("llama.cpp's tools are missing: run `make peers`")
    model = presets.builtin_models()[given.model]
    quants = [name for name in preset.load("q2-q8").variants if name in PLAIN and name != "BF16"]
    turns: list[dict[str, float]] = []
    cells: list[Counter[str]] = []
    for turn in range(given.repetitions):
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            export(open_source(model.directory, model.name), {"BF16": directory / "BF16.gguf"})
            sides = {
                "peers": lambda at=directory: peers(at / "BF16.gguf", model.text, quants, at),
                "sweep": lambda at=directory: ours(model.name, quants, at),
            }
            order = list(sides) if turn % 2 == 0 else list(reversed(sides))
            turns.append({side: sides[side]() for side in order})
            cells.append(spent(directory))
    print(f"{machine()}; {model.name}; {', '.join(quants)} against BF16; repetitions: {given.repetitions}\n")
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
