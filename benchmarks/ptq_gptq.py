"""GPTQ compared with llm-compressor: whole checkpoints in turn, with the same samples and cores. Linux only.

    make oracle && python benchmarks/ptq_gptq.py [--layers 2] [--samples 32] [--length 512] [--repetitions 2]
        [--peer-dtype auto|float32] [--dir DIR] [--tokenizer DIR] [--text FILE]

The checkpoint has Qwen3-0.6B's shape and random weights in BF16. Both sides read it, quantize its linear layers to 4
bits in groups of 128 columns (asymmetric, columns in static order, layer by layer), and write a compressed-tensors
checkpoint. Costs are those of each process after its imports. bitsweep runs the model in float32, llm-compressor in the
checkpoint's dtype, or in float32 with `--peer-dtype float32`. Memory is measured in a separate pass: the highest
anonymous memory, less what the imports took.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from export import HIDDEN, TOKENIZER, PeerProcess, ended, machine, make_checkpoint, say, shapes, started, watch_job
from process_costs import costs_written  # benchmarks/process_costs.py, as the line above
from safetensors.torch import load_file, save_file

from int8.quantize_model import CalibrationText
from ptq.quantize import quantize
from ptq.recipe import recipe

ROOT = Path(__file__).parents[1]
PEER_PYTHON = ROOT / "build/oracle-ptq/venv/bin/python"
PEER = Path(__file__).with_name("ptq_gptq_peer.py")
TEXT = ROOT.parent / "shared/data/wikitext2/wiki.test.raw"
BITS, GROUP = 4, 128
OURS, THEIRS = "bitsweep", "llm-compressor"
BOUND = 1.2  # the target: our time over theirs


@dataclass(frozen=True)
class QuantizingCosts:
    """Costs of one process after its imports. `before`: the bytes that it had then."""

    seconds: float
    cpu_seconds: float
    before: int


def calibration_text(file: Path) -> CalibrationText:
    return CalibrationText(file.name, lambda _: file.read_text(encoding="utf-8"))


def quantize_ours(model: Path, tokens: Path, text: Path, out: Path, costs: Path) -> None:
    """Our side, in a process of its own. It cuts the text itself, into the samples in `tokens`."""
    count, length = load_file(tokens)["tokens"].shape
    with costs_written(costs):
        quantize(model, recipe(f"gptq:w{BITS}g{GROUP}"), calibration_text(text), out, count=count, length=length)


def processes(directory: Path, model: Path, text: Path, peer_dtype: str) -> dict[str, PeerProcess]:
    """Both sides by name. What is written is the file of costs."""
    tokens = directory / "tokens.safetensors"
    costs = {side: directory / f"{side}.json" for side in (OURS, THEIRS)}
    outs = {side: directory / side for side in (OURS, THEIRS)}
    ours = (sys.executable, __file__, "--ours", model, tokens, text, outs[OURS], costs[OURS])
    theirs = (PEER_PYTHON, PEER, model, tokens, outs[THEIRS], costs[THEIRS], peer_dtype, str(BITS), str(GROUP))
    reads = tuple(model.glob("*.safetensors"))
    return {
        OURS: PeerProcess(ours, reads, (costs[OURS],)),
        THEIRS: PeerProcess(theirs, reads, (costs[THEIRS],)),
    }


def prepare(directory: Path, side: str, job: PeerProcess) -> None:
    """Remove what an earlier turn wrote: neither side writes over a checkpoint."""
    shutil.rmtree(directory / side, ignore_errors=True)
    for file in job.writes:
        file.unlink(missing_ok=True)


def costs_of(job: PeerProcess) -> QuantizingCosts:
    return QuantizingCosts(**json.loads(job.writes[0].read_text()))


def measured(directory: Path, jobs: dict[str, PeerProcess], repetitions: int) -> dict[str, list[QuantizingCosts]]:
    """The costs of each side, in turn; every other repetition begins with the other side."""
    found: dict[str, list[QuantizingCosts]] = {side: [] for side in jobs}
    for number in range(repetitions):
        for side, job in list(jobs.items())[:: -1 if number % 2 else 1]:
            prepare(directory, side, job)
            ended(started(job, directory / "log"), job, directory / "log")
            found[side].append(costs_of(job))
            one = found[side][-1]
            say(f"{number + 1} of {repetitions}: {side} {one.seconds:.1f} s, {one.cpu_seconds:.1f} s of CPU time")
    return found


def peaks(directory: Path, jobs: dict[str, PeerProcess]) -> dict[str, int]:
    """The highest anonymous bytes of each side, less those before it began."""
    found = {}
    for side, job in jobs.items():
        prepare(directory, side, job)
        found[side] = watch_job(job, directory / "log").anonymous - costs_of(job).before
        say(f"memory: {side} {found[side] / 1e6:.0f} MB")
    return found


def needed(samples: int, length: int) -> dict[str, int]:
    """Bytes that layer-by-layer quantizing needs at least, while the checkpoint's weights stay in their files."""
    layer = {name: shape for name, shape in shapes(1).items() if name.startswith("model.layers.")}
    inputs = {shape[1] for shape in layer.values() if len(shape) == 2}
    return {
        "one layer in float32": 4 * sum(map(math.prod, layer.values())),
        "its Hessians": 4 * sum(columns**2 for columns in (HIDDEN, HIDDEN, *(inputs - {HIDDEN}))),
        "inputs of the samples, in BF16": 2 * samples * length * HIDDEN,
    }


def table(rows: dict[str, list[QuantizingCosts]], memory: dict[str, int]) -> str:
    """A Markdown table of both sides and their ratio."""
    lines = ["| | median s | minimum s | median CPU s | peak MB |", "|---|--:|--:|--:|--:|"]
    cells = {
        side: (
            statistics.median(one.seconds for one in costs),
            min(one.seconds for one in costs),
            statistics.median(one.cpu_seconds for one in costs),
            memory[side] / 1e6,
        )
        for side, costs in rows.items()
    }
    for side, (median, least, cpu, peak) in cells.items():
        lines.append(f"| {side} | {median:.1f} | {least:.1f} | {cpu:.1f} | {peak:.0f} |")
    ratios = [one / other for one, other in zip(cells[OURS], cells[THEIRS], strict=True)]
    lines.append(f"| ratio | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    met = "met" if ratios[0] <= BOUND else "missed"
    return "\n".join([*lines, "", f"Median time over llm-compressor's: {ratios[0]:.2f}, at most {BOUND}: {met}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--peer-dtype", choices=("auto", "float32"), default="auto")
    parser.add_argument("--dir", type=Path, help="directory that keeps the checkpoint; default: a temporary one")
    parser.add_argument(
        "--tokenizer", type=Path, default=TOKENIZER, help="directory with the tokenizer of a Qwen model"
    )
    parser.add_argument("--text", type=Path, default=TEXT, help="the calibration text")
    parser.add_argument("--ours", nargs=5, type=Path, help=argparse.SUPPRESS)  # this file's own process
    arguments = parser.parse_args()
    if arguments.ours:
        quantize_ours(*arguments.ours)
        return
    for file, remedy in (
        (PEER_PYTHON, "run `make oracle`"),
        (arguments.tokenizer / "tokenizer.json", "give --tokenizer, a directory with the tokenizer of a Qwen model"),
        (arguments.text, "give --text"),
    ):
        if not file.exists():
            raise SystemExit(f"{file}: is missing; {remedy}")
    with tempfile.TemporaryDirectory() if arguments.dir is None else nullcontext(arguments.dir) as name:
        directory = Path(name).resolve()
        model = directory / "model"
        make_checkpoint(model, arguments.tokenizer, arguments.layers)
        text = directory / "text"  # no longer than needed: the other side gets its tokens
        text.write_text(
            arguments.text.read_text(encoding="utf-8")[: 12 * arguments.samples * arguments.length], encoding="utf-8"
        )
        tokens = calibration_text(text).of(model, arguments.samples, arguments.length)
        save_file({"tokens": tokens.contiguous()}, directory / "tokens.safetensors")
        jobs = processes(directory, model, text, arguments.peer_dtype)
        rows = measured(directory, jobs, arguments.repetitions)
        memory = peaks(directory, jobs)
    least = ", ".join(f"{what} {size / 1e6:.0f} MB" for what, size in needed(*tokens.shape).items())
    checkpoint = 2 * sum(map(math.prod, shapes(arguments.layers).values()))
    print(f"{machine()}; {arguments.layers} layers, {len(tokens)} samples of {tokens.shape[1]} tokens")
    print(f"The checkpoint has {checkpoint / 1e6:.0f} MB; {least}\n\n{table(rows, memory)}")


if __name__ == "__main__":
    main()
