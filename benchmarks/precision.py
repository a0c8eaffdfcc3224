"""How much of texts and tasks `sweep run --precision` measures, and whether it decides as a full measurement does.

    python benchmarks/precision.py [--model micro] [--precision decide,5%,decide+smallest-first] [--repetitions 1]
    python benchmarks/precision.py --preset q2-q8 --measure speed,text,tasks   # the sweep of `make demo`
    python benchmarks/precision.py --model FILE.gguf --requantize --text wiki.test.raw [--variants Q2_K,...]

Each precision is a whole process in a workspace of its own, next to one with `--precision full`. Printed are the wall
times and their ratio, the time of the jobs of texts and tasks, how much was measured of each variant, and what differs:
sides of the bound of 0.02 nats, the order of neighbours whose divergences differ by 5 % or more, the verdicts on tasks,
the recommended variant. `+smallest-first` adds `--search smallest-first`. `--only` leaves the full sweep out.
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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from export import machine

from presets.advice import advice_rules
from sweep.results.text_rounds import EQUAL
from sweep.statistics import ALPHA

VARIANTS = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K"


@dataclass(frozen=True)
class Sweep:
    """The wall time of a sweep, the seconds of its texts and tasks, its records, and the variant that it recommends."""

    seconds: float
    text_seconds: float
    task_seconds: float
    records: dict[str, dict[str, Any]]
    recommended: str | None

    @property
    def klds(self) -> dict[str, float]:
        found = {name: record["divergence"] for name, record in self.records.items()}
        return {name: one["kld_mean"] for name, one in found.items() if one is not None}

    @property
    def losses(self) -> set[tuple[str, str]]:
        """The variants and tasks with a significant loss."""
        tasks = [
            (name, task, score) for name, record in self.records.items() for task, score in record["tasks"].items()
        ]
        return {
            (name, task)
            for name, task, score in tasks
            if score["p_holm"] is not None and score["p_holm"] < ALPHA and score["delta"] < 0
        }


def run(options: list[str], mode: str) -> Sweep:
    precision, _, search = mode.partition("+")
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", "from sweep.cli import main; main()", "run", *options]
        command += ["--precision", precision, "--workspace", directory, "--format", "json"]
        command += ["--search", search] if search else []
        began = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        seconds = time.perf_counter() - began
        lines = [json.loads(line) for line in done.stdout.splitlines()]
    ended = [line for line in lines if line["event"] == "cell_done"]
    last = lines[-1]
    return Sweep(
        seconds,
        sum(line["seconds"] for line in ended if "/text" in line["cell"]),
        sum(line["seconds"] for line in ended if line["cell"].partition("/")[2] in last["records"][0]["tasks"]),
        {record["variant"]: record for record in last["records"]},
        last["advice"]["variant"],
    )


def differences(full: Sweep, part: Sweep) -> list[str]:
    """What the part of the text decides in another way than all of it."""
    bound, found = advice_rules().adequate, []
    seen = part.klds
    true = {name: value for name, value in full.klds.items() if name in seen}
    found += [
        f"{name} is on the other side of {bound}" for name in true if (true[name] < bound) != (seen[name] < bound)
    ]
    for a, b in pairwise(sorted(true, key=lambda name: true[name])):
        if true[b] - true[a] > max(EQUAL * true[b], advice_rules().unnoticeable) and seen[a] > seen[b]:
            found.append(f"{a} and {b} change places")
    measured = {name for name, record in part.records.items() if record["status"] != "skipped"}
    other = part.losses ^ {(name, task) for name, task in full.losses if name in measured}
    found += [f"the verdict on {task} of {name} is another" for name, task in sorted(other)]
    if full.recommended != part.recommended:
        found.append(f"{part.recommended} is recommended instead of {full.recommended}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--preset", help="with all its variants, in place of --variants")
    parser.add_argument("--variants", default=VARIANTS)
    parser.add_argument("--measure", default="text")
    parser.add_argument("--only", action="store_true")
    parser.add_argument("--precision", default="decide,5%")
    parser.add_argument("--requantize", action="store_true")
    parser.add_argument("--repetitions", type=int, default=1)
    given = parser.parse_args()
    options = [given.model, "--measure", given.measure, *(["--requantize"] if given.requantize else [])]
    options += ["--variants", f"={given.variants}"] if given.preset is None else ["--preset", given.preset]
    options += [] if given.text is None else ["--perplexity", str(given.text)]
    print(machine(), f"{os.cpu_count()} cores")
    modes = given.precision.split(",")
    sweeps = {
        mode: [run(options, mode) for _ in range(given.repetitions)]
        for mode in ([] if given.only else ["full"]) + modes
    }
    full = sweeps.get("full")
    for mode, runs in sweeps.items():
        print(f"{mode}: {_times(runs, full)}; {runs[0].recommended} is recommended", flush=True)
        if runs is full:
            continue
        for name, record in runs[0].records.items():
            parts = [f"{one['samples']} of {one['of']} ({what})" for what, one in record["stopping"].items()]
            print(f"  {name}: {', '.join(parts) or record['error'] or 'in full'}")
        if full is not None:
            print("  " + ("; ".join(differences(full[0], runs[0])) or "the same decisions"))


def _times(runs: Sequence[Sweep], full: Sequence[Sweep] | None) -> str:
    """The median times, with their ratios to those of the full sweep."""
    words = []
    for what, name in (("", "seconds"), ("texts ", "text_seconds"), ("tasks ", "task_seconds")):
        own = statistics.median(getattr(one, name) for one in runs)
        base = None if full is None or full is runs else statistics.median(getattr(one, name) for one in full)
        words.append(f"{what}{own:.1f} s" + (f" ({own / base:.2f})" if base else ""))
    return ", ".join(words)


if __name__ == "__main__":
    main()
