"""Time and memory of `sweep fit`, as a whole process and inside one, and the heavy modules that it imports.

    python benchmarks/fit.py [--repetitions 5]
    python benchmarks/fit.py --error

With --error it measures the accuracy instead. A fit computes compute buffers from one load for all placements of a
kind; they are compared, device by device, with a load of exactly the same placement.

Targets: all variants of the largest model from its config within 1 s after the start; one model of the catalogue, from
a cold start, within 1.5 s and without importing torch or transformers; less than 300 MB resident.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
GIB = 1 << 30

SCRIPT = """
import json, resource, sys, time
start = time.perf_counter()
from sweep.fit.hardware import Device
from sweep.commands.fit import fit
from sweep.fit.fit_report import FitOptions
model, variants, gpus = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
devices = [Device(f"GPU {i}", "cuda", size, size, 1e12, True, 1 << 30) for i, size in enumerate(gpus)]
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


QUESTIONS = [
    (model, [size * GIB for size in gpus], context)
    for model in ("Qwen3-4B", "Qwen3-32B", "Qwen3-30B-A3B", "Qwen3.5-27B", "Qwen3.6-35B-A3B", "Qwen3.5-122B-A10B")
    for gpus in ([8], [24], [80], [24, 24], [24, 12], [48, 48, 48])
    for context in (4096, 32768)
]


def errors() -> None:
    """Print the differences between the compute buffers of a fit and those of a load, for each kind of placement."""
    from converters.catalogue import public_model
    from converters.llamacpp.ghost import ghost
    from converters.llamacpp.load import LoadOptions
    from converters.llamacpp.memory import context_memory, loaded_ghost
    from converters.llamacpp.rpc import simulated_devices
    from converters.plan import plan_file
    from converters.recipes import recipe
    from sweep.fit.contexts import context_options
    from sweep.fit.fit_model import fit_model
    from sweep.fit.fit_report import FitOptions
    from sweep.fit.hardware import Device

    found: dict[str, list[tuple[float, str]]] = {"all on the devices": [], "partly in RAM": []}
    for model, gpus, context in QUESTIONS:
        # for the kind "rpc" a fit adds no copies of weights, because a load on RPC devices does not report them
        devices = [Device(f"GPU {i}", "rpc", size, size, None, True, GIB) for i, size in enumerate(gpus)]
        options = FitOptions(context)
        (row,) = fit_model(model, ["Q4_K_M"], devices, options).rows
        overrides = re.findall(r"([^,']+)=(CPU|rpc)(\d*)", row.arguments)
        tensor_overrides = tuple((pattern, int(number) if number else None) for pattern, _, number in overrides)
        load = LoadOptions(
            row.gpu_layers, tensor_split=tuple(map(float, row.tensor_split)), tensor_overrides=tensor_overrides
        )
        source = public_model(model)
        with ghost(source.structure, source.tensors) as path:
            tensors = plan_file(source, recipe("Q4_K_M"), path).tensors
        with (
            ghost(source.structure, tensors) as path,
            simulated_devices(len(gpus)) as remote,
            loaded_ghost(path, load, remote) as loaded,
        ):
            truth = context_memory(loaded, context_options(options, context, 1), remote)
        for share, real in zip(row.shares, truth.compute_bytes, strict=True):
            difference = (share.compute_bytes - real) / (1 << 20)
            where = f"{model}, {'+'.join(str(size // GIB) for size in gpus)} GiB, {context}: {share.device}"
            found["all on the devices" if row.fits else "partly in RAM"].append((difference, where))
    for kind, differences in found.items():
        values = [value for value, _ in differences]
        print(f"{kind}: {len(values)} buffers, median {statistics.median(values):+.2f} MiB")
        for value, where in (min(differences), max(differences)):
            print(f"  {value:+9.2f} MiB  {where}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--error", action="store_true")
    arguments = parser.parse_args()
    if arguments.error:
        return errors()
    repetitions = arguments.repetitions
    print(
        f"{'model':20} {'rows':>4} {'devices':>12} {'whole process':>14} {'imports':>9} {'fit':>9} {'peak':>9}  loaded"
    )
    for model, variants, gpus in CASES:
        command = [sys.executable, "-c", SCRIPT, model, json.dumps(variants), json.dumps(gpus)]
        inside, whole = [], []
        for _ in range(repetitions):
            timed = [sys.executable, "-c", WHOLE, *command]
            whole.append(float(subprocess.run(timed, check=True, capture_output=True, text=True, cwd=ROOT).stdout))
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            inside.append(json.loads(done.stdout))
        devices = "+".join(f"{size // GIB}" for size in gpus) + " GiB" if gpus else "RAM"
        print(
            f"{model:20} {inside[0]['rows']:4} {devices:>12} {statistics.median(whole):12.2f} s"
            f" {statistics.median(one['imports'] for one in inside):7.2f} s"
            f" {statistics.median(one['fit'] for one in inside):7.2f} s"
            f" {max(one['peak'] for one in inside):6.0f} MiB  {', '.join(inside[0]['heavy']) or 'no heavy module'}"
        )


if __name__ == "__main__":
    main()
