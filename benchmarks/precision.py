"""How much of a text `sweep run --precision` reads, and whether it decides as all of the text does.

    python benchmarks/precision.py [--model micro] [--precision decide,5%] [--repetitions 1]
    python benchmarks/precision.py --model FILE.gguf --requantize --text wiki.test.raw [--variants Q2_K,...]

Each precision is a whole process in a workspace of its own, next to one with `--precision full`. Printed are the wall
times and their ratio, the time of the text jobs, the windows that were read of each variant, and what differs: sides of
the bound of 0.02 nats, the order of neighbours whose divergences differ by 5 % or more, the recommended variant.
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
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from export import machine

from presets.advice import advice_rules
from sweep.results.text_rounds import EQUAL

VARIANTS = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K"


@dataclass(frozen=True)
class Sweep:
    """The wall time of a sweep, the seconds of its text jobs, its records, and the variant that it recommends."""

    seconds: float
    text_seconds: float
    records: dict[str, dict[str, Any]]
    recommended: str | None

    @property
    def klds(self) -> dict[str, float]:
        found = {name: record["divergence"] for name, record in self.records.items()}
        return {name: one["kld_mean"] for name, one in found.items() if one is not None}


def run(options: list[str], precision: str) -> Sweep:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", "from sweep.cli import main; main()", "run", *options]
        command += ["--measure", "text", "--precision", precision, "--workspace", directory, "--format", "json"]
        began = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        seconds = time.perf_counter() - began
        lines = [json.loads(line) for line in done.stdout.splitlines()]
    ended = [line for line in lines if line["event"] == "cell_done" and "/text" in line["cell"]]
    last = lines[-1]
    return Sweep(
        seconds,
        sum(line["seconds"] for line in ended),
        {record["variant"]: record for record in last["records"]},
        last["advice"]["variant"],
    )


def differences(full: Sweep, part: Sweep) -> list[str]:
    """What the part of the text decides in another way than all of it."""
    bound, found = advice_rules().adequate, []
    true, seen = full.klds, part.klds
    found += [
        f"{name} is on the other side of {bound}" for name in true if (true[name] < bound) != (seen[name] < bound)
    ]
    for a, b in pairwise(sorted(true, key=lambda name: true[name])):
        if true[b] - true[a] > max(EQUAL * true[b], advice_rules().unnoticeable) and seen[a] > seen[b]:
            found.append(f"{a} and {b} change places")
    if full.recommended != part.recommended:
        found.append(f"{part.recommended} is recommended instead of {full.recommended}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--variants", default=VARIANTS)
    parser.add_argument("--precision", default="decide,5%")
    parser.add_argument("--requantize", action="store_true")
    parser.add_argument("--repetitions", type=int, default=1)
    given = parser.parse_args()
    options = [given.model, "--variants", f"={given.variants}", *(["--requantize"] if given.requantize else [])]
    options += [] if given.text is None else ["--perplexity", str(given.text)]
    print(machine(), f"{os.cpu_count()} cores")
    sweeps = {
        precision: [run(options, precision) for _ in range(given.repetitions)]
        for precision in ("full", *given.precision.split(","))
    }
    full = sweeps.pop("full")
    wall, text = (statistics.median(getattr(one, name) for one in full) for name in ("seconds", "text_seconds"))
    print(f"full: {wall:.1f} s, of which texts {text:.1f} s; {full[0].recommended} is recommended")
    for precision, runs in sweeps.items():
        own, own_text = (statistics.median(getattr(one, name) for one in runs) for name in ("seconds", "text_seconds"))
        print(f"{precision}: {own:.1f} s ({own / wall:.2f}), of which texts {own_text:.1f} s ({own_text / text:.2f})")
        for name, record in runs[0].records.items():
            part = record["stopping"]["text"]
            print(f"  {name}: {part['samples']} of {part['of']} windows, {part['stopped']}")
        print("  " + ("; ".join(differences(full[0], runs[0])) or "the same decisions"))


if __name__ == "__main__":
    main()
