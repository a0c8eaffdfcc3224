"""How long `sweep fit` takes, as whole processes and inside one, and how much memory; and what it loads to get there.

    python benchmarks/fit.py [--repetitions 5]

Bars: every variant of the largest model from its config within 1 s after start; one name of the catalogue on a cold
start within 1.5 s, with neither torch nor transformers imported; below 300 MB resident.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
GIB = 1 << 30

SCRIPT = """
import json, resource, sys, time
start = time.perf_counter()
from sweep.fit.device import Device
from sweep.fit.fitting import fit
from sweep.fit.report import FitOptions
model, variants, cards = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
devices = [Device(f"card {i}", "cuda", size, size, 1e12, True, 1 << 30) for i, size in enumerate(cards)]
devices = devices or [Device("RAM", "cpu", 1 << 40, 1 << 40, 1e11, True, 0)]
loaded = time.perf_counter()
rows = fit(model, variants, devices, FitOptions(8192)).rows
end = time.perf_counter()
heavy = [name for name in ("torch", "transformers", "huggingface_hub") if name in sys.modules]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"imports": loaded - start, "fit": end - loaded, "rows": len(rows), "peak": peak, "heavy": heavy}))
"""

WHOLE = """
import time, subprocess, sys
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - start)
"""

CASES = (
    ("Qwen3-4B", ["Q4_K_M"], [24 * GIB]),
    ("Qwen3-4B", [], [24 * GIB]),
    ("Qwen3.6-35B-A3B", [], [24 * GIB]),
    ("Qwen3.5-397B-A17B", [], []),
    ("Qwen3.5-397B-A17B", [], [141 * GIB]),
    ("Qwen3.5-397B-A17B", [], [48 * GIB, 48 * GIB]),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    print(
        f"{'model':20} {'rows':>4} {'devices':>12} {'whole process':>14} {'imports':>9} {'fit':>9} {'peak':>9}  loaded"
    )
    for model, variants, cards in CASES:
        command = [sys.executable, "-c", SCRIPT, model, json.dumps(variants), json.dumps(cards)]
        inside, whole = [], []
        for _ in range(repetitions):
            timed = [sys.executable, "-c", WHOLE, *command]
            whole.append(float(subprocess.run(timed, check=True, capture_output=True, text=True, cwd=ROOT).stdout))
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            inside.append(json.loads(done.stdout))
        devices = "+".join(f"{card // GIB}" for card in cards) + " GiB" if cards else "RAM"
        print(
            f"{model:20} {inside[0]['rows']:4} {devices:>12} {statistics.median(whole):12.2f} s"
            f" {statistics.median(one['imports'] for one in inside):7.2f} s"
            f" {statistics.median(one['fit'] for one in inside):7.2f} s"
            f" {max(one['peak'] for one in inside):6.0f} MiB  {', '.join(inside[0]['heavy']) or 'nothing heavy'}"
        )


if __name__ == "__main__":
    main()
