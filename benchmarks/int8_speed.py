"""Speed of int8 compared with BF16 on an NVIDIA GPU: Qwen3's linear layers, prefill and decode, and the dequantizers.

    PYTHONPATH=. python benchmarks/int8_speed.py [--minutes 9] [--sizes 8B,0.6B,...] [--out FILE.md] [--interpret]

All work is recorded in CUDA graphs; BF16 (cuBLAS) and int8 take turns, and figures are medians over the turns. First
each path is compared with exact integer arithmetic. The file is rewritten after each part, so an interrupted run keeps
its results. A part is skipped if the remaining minutes are not enough. The parts are in int8_gpu/.
`--interpret` runs the same code on tiny shapes in Triton's interpreter, to check that it works; it measures no speed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from int8_gpu.attention import attention_lines
from int8_gpu.linear_layers import CELLS, LinearTiming, correctness, linear_cells, verdicts
from int8_gpu.qwen3_shape import QWEN3, Qwen3Shape
from int8_gpu.report import MarkdownReport, say
from int8_gpu.timing import TimeBudget, find_machine, measured_ceilings
from int8_gpu.whole_model import INTERNAL, WEIGHTS, eager_lines, fitted, model_lines

TOKENS = (1, 16, 128, 512, 2048, 8192)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--sizes", default="8B,0.6B,32B,1.7B,14B,4B", help="sizes of Qwen3, the most important first")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--interpret", action="store_true")
    given = parser.parse_args()
    if not given.interpret and not torch.cuda.is_available():
        say("there is no NVIDIA GPU on this machine; --interpret runs the same code without one, but measures no speed")
        return 4
    if given.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        from int8.linear import require_int8

        require_int8(torch.device("cuda"))
    import triton

    budget, machine = TimeBudget(given.minutes), find_machine(given.interpret)
    shapes, all_tokens, large, prefills, context = QWEN3, TOKENS, "8B", (2048, 8192), 512
    sizes = given.sizes.split(",")
    if given.interpret:
        shapes, all_tokens, large = {"tiny": Qwen3Shape(64, 96, 2, 1, 1, 64, 32)}, (1, 5), "tiny"
        sizes, prefills, context = ["tiny"], (8,), 4
    versions = f"torch {torch.__version__}, triton {triton.__version__}, CUDA {torch.version.cuda}"
    report = MarkdownReport(
        given.out, f"# int8 against BF16: {machine.name}\n\n{versions}; {time.strftime('%Y-%m-%d')}"
    )
    with report.part("Ceilings, measured") as lines:
        machine = measured_ceilings(machine)
        lines.append(
            f"Copy {machine.copy / 1e9:.0f} GB/s (read and written), BF16 {machine.bf16 / 1e12:.0f} TFLOP/s (cuBLAS),"
            f" int8 {machine.int8 / 1e12:.0f} TOP/s (cuBLASLt, int32 out); products of 8192³ random values."
        )
    with report.part("Compared with exact integer arithmetic") as lines:
        lines += correctness(machine)
    cells: list[LinearTiming] = []

    def linear_part(some: Sequence[str]) -> None:
        with report.part(f"Linear layers: {', '.join(some)}") as lines:
            lines.append(CELLS)
            for cell in linear_cells(machine, budget, shapes, some, all_tokens):
                cells.append(cell)
                lines.append(cell.line(machine))

    linear_part(sizes[:1])
    with report.part(f"A random model of Qwen3-{large}'s shape, batch 1, decode after {context} tokens") as lines:
        rows = fitted(lambda s: model_lines(machine, budget, s, prefills, context, (INTERNAL, WEIGHTS)), shapes[large])
        for line in rows:
            lines.append(line)  # one by one, because a later row may fail
    few = replace(shapes[large], layers=min(4, shapes[large].layers))
    with report.part("The dequantizers: 4 of its layers") as lines:
        for line in fitted(lambda s: model_lines(machine, budget, s, prefills[:1], context, None), few):
            lines.append(line)
    with report.part("Without CUDA graphs: 4 of its layers") as lines:
        for line in eager_lines(machine, few, context):
            lines.append(line)
    with report.part(f"Attention of a prefill, Qwen3-{large}'s heads") as lines:
        for line in attention_lines(machine, shapes[large], prefills):
            lines.append(line)
    if sizes[1:]:
        linear_part(sizes[1:])
    with report.part("Targets and results") as lines:
        lines += verdicts(cells) if cells else ["No linear layer was measured."]
    print(report)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
