"""Timing of alternating work, and the measured limits of the machine.

On a GPU work is recorded in CUDA graphs and timed by CUDA's events; figures are medians of the turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from int8.linear import int_matmul

TURNS = 5
TURN_MS = 3.0  # minimum work per turn

Call = Callable[[], Any]


@dataclass(frozen=True)
class GpuMachine:
    """The machine, with measured limits: bytes per second of a copy (read and written), and operations per second."""

    device: str
    name: str
    capability: tuple[int, int]
    cache_bytes: int
    copy: float = 0.0
    bf16: float = 0.0
    int8: float = 0.0


class TimeBudget:
    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def seconds(self) -> float:
        return self._end - time.monotonic()


def milliseconds(machine: GpuMachine, sides: Sequence[Sequence[Call]]) -> list[float]:
    """Milliseconds per call on each side. A side's calls do the same work on copies of a weight; sides take turns."""
    for side in sides:
        for call in side:
            call()  # warm-up: tuning, compilation, allocation
    if machine.device == "cpu":
        return [1e3 * min(_clock(side[0]) for _ in range(2)) for side in sides]
    graphs = [_graph(side) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    replays = [max(1, round(TURN_MS / max(_replay(graph, 1), 1e-3))) for graph in graphs]
    for _ in range(TURNS):
        for graph, count, found in zip(graphs, replays, times, strict=True):
            found.append(_replay(graph, count))
    return [statistics.median(found) / len(side) for found, side in zip(times, sides, strict=True)]


def _clock(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _graph(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            calls[0]()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def _replay(graph: torch.cuda.CUDAGraph, count: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def find_machine(interpret: bool) -> GpuMachine:
    if interpret:
        return GpuMachine("cpu", "Triton's interpreter on a CPU (no speed is measured)", (9, 0), 1 << 10)
    found = torch.cuda.get_device_properties(0)
    return GpuMachine("cuda", found.name, (found.major, found.minor), getattr(found, "L2_cache_size", 50 << 20))


def measured_ceilings(machine: GpuMachine) -> GpuMachine:
    side = 8192 if machine.device == "cuda" else 64
    source = torch.randn(side * side, device=machine.device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=machine.device).bfloat16() for _ in range(2))
    q, w = (torch.randint(-127, 128, (side, side), device=machine.device).to(torch.int8) for _ in range(2))
    copy, bf16, int8 = milliseconds(
        machine, [[lambda: target.copy_(source)], [lambda: a @ b.t()], [lambda: int_matmul(q, w)]]
    )
    products = 2 * side**3 * 1e3
    return replace(machine, copy=2 * source.nbytes / copy * 1e3, bf16=products / bf16, int8=products / int8)
