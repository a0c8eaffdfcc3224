"""Prompt and decode speed compared with llama-bench's pp512 and tg128: whole processes in turn, on the same file.

    make peers && python benchmarks/speed.py [--repetitions 5] [--layers 8] [--quants Q4_K_M,Q8_0] [--tokenizer DIR]
        [--depth 4096]

The model has Qwen3-0.6B's shape, random weights and, by default, fewer layers. Our side is the speed job of `sweep
run`, which reports medians of its repetitions in its own worker; llama-bench reports the mean of its five.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from export import ROOT, TOKENIZER, machine, make_checkpoint

from converters.export import export
from converters.resolver import open_source
from sweep.artefact import Artefact
from sweep.devices import threads
from sweep.execution.local import LocalHost
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import Settings
from sweep.jobs.speed import DepthJob, SpeedJob

BENCH = ROOT / "build/peers/bin/llama-bench"
BOUND = 0.05  # relative to llama-bench's figure


def ours(file: Path, depth: int) -> tuple[float, float]:
    """(prompt, decode) in tokens per second as a sweep measures them, in its own worker, after `depth` tokens."""
    model = MeasuredModel("gguf", Artefact.of(file), "", "", Settings())
    with LocalHost(log=file.with_suffix(".log")) as host:
        speed = host.run_job(DepthJob(model, depth)).speed if depth else host.run_job(SpeedJob(model)).speed
    return speed.prompt_tokens_per_s, speed.decode_tokens_per_s


def theirs(file: Path, depth: int) -> tuple[float, float]:
    """(pp512, tg128) of llama-bench, in tokens per second, after `depth` tokens."""
    command = [BENCH, "-m", file, "-p", "512", "-n", "128", "-d", str(depth), "-t", str(threads()), "-o", "json"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    by_kind = {row["n_gen"] > 0: row["avg_ts"] for row in rows}
    return by_kind[False], by_kind[True]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--quants", default="Q4_K_M,Q8_0")
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    given = parser.parse_args()
    if not BENCH.exists():
        raise SystemExit("llama-bench is missing: run `make peers`")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        make_checkpoint(directory / "model", given.tokenizer, given.layers)
        files = {quant: directory / f"{quant}.gguf" for quant in given.quants.split(",")}
        export(open_source(directory / "model"), files)
        print(f"{machine()}; {given.layers} layers; repetitions: {given.repetitions}\n")
        print("| file | figure | sweep | llama-bench | ratio (median) | ratios | within 5 % |")
        print("|---|---|--:|--:|--:|---|---|")
        for quant, file in files.items():
            turns = []
            for turn in range(given.repetitions):
                order = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
                found = {side: side(file, given.depth) for side in order}
                turns.append((found[ours], found[theirs]))
            for index, name in enumerate(("pp512", "tg128")):
                pairs = [(a[index], b[index]) for a, b in turns]
                ratios = [a / b for a, b in pairs]
                middle = statistics.median(ratios)
                mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
                every = " ".join(f"{ratio:.3f}" for ratio in ratios)
                held = "yes" if abs(middle - 1) <= BOUND else "no"
                print(f"| {quant} | {name} | {mine:.1f} | {other:.1f} | {middle:.3f} | {every} | {held} |")


if __name__ == "__main__":
    main()
