"""The tiles that are tried for each kernel, and the selection of the fastest.

An entry of `TILES` is tried for its buckets of M, with caches emptied between runs as Triton's do_bench does. The
result is kept for the process, one entry per kernel, shape and bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources, PTXASError

BUCKETS = (1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def bucket(rows: int) -> int:
    """The smallest of BUCKETS that holds `rows`, or the largest. All sizes in a bucket use the same tuned tiles."""
    return next((size for size in BUCKETS if rows <= size), BUCKETS[-1])


@dataclass(frozen=True)
class Tiles:
    """One way to divide a product, tried for buckets of M from `low` to `high`."""

    low: int
    high: int
    bm: int  # rows of a tile
    bn: int  # columns
    bk: int
    warps: int
    stages: int
    split: int = 1  # programs that share a tile's K
    per_processor: int = 1  # persistent programs on each multiprocessor


# fmt: off
TILES: Mapping[str, tuple[Tiles, ...]] = {
    "gemm": (  # small M: narrow tiles and split K, so that all processors read the weight
        Tiles(1, 16, 16, 32, 256, 4, 4), Tiles(1, 16, 16, 32, 256, 4, 4, 4), Tiles(1, 16, 16, 64, 256, 4, 3),
        Tiles(1, 16, 16, 64, 256, 4, 3, 4), Tiles(1, 16, 16, 128, 128, 8, 4, 8),
        Tiles(32, 32, 32, 32, 256, 4, 3, 2), Tiles(32, 32, 32, 64, 128, 4, 4), Tiles(32, 32, 32, 64, 128, 4, 4, 4),
        Tiles(64, 128, 64, 32, 128, 4, 4), Tiles(64, 128, 64, 64, 128, 4, 4), Tiles(64, 128, 64, 64, 128, 4, 4, 4),
        Tiles(64, 256, 64, 128, 128, 4, 4), Tiles(64, 256, 64, 128, 128, 4, 4, 4),
        Tiles(128, 256, 128, 64, 128, 4, 4), Tiles(128, 256, 128, 128, 128, 8, 4, 2),
        Tiles(256, 8192, 128, 64, 128, 4, 4), Tiles(256, 8192, 128, 128, 128, 8, 3),
        Tiles(256, 8192, 128, 128, 128, 4, 3), Tiles(512, 8192, 128, 256, 128, 8, 3),
        Tiles(512, 8192, 256, 128, 128, 8, 3),
    ),
    "persistent": (  # two small programs per multiprocessor overlap their waits; large programs read less
        Tiles(64, 1024, 64, 128, 128, 4, 4, per_processor=2), Tiles(128, 8192, 128, 128, 128, 4, 3, per_processor=2),
        Tiles(128, 1024, 128, 128, 128, 8, 4), Tiles(256, 8192, 128, 256, 128, 8, 3),
        Tiles(512, 8192, 128, 256, 128, 8, 4), Tiles(512, 8192, 256, 128, 128, 8, 3),
        Tiles(512, 8192, 128, 256, 256, 8, 2), Tiles(512, 8192, 128, 128, 256, 8, 3),
    ),
    "skinny": (
        Tiles(1, 16, 16, 16, 256, 4, 4), Tiles(1, 16, 16, 32, 256, 4, 4), Tiles(1, 16, 16, 32, 512, 8, 3),
        Tiles(1, 16, 16, 64, 256, 8, 3),
    ),
    "gemv": (
        Tiles(1, 1, 1, 4, 1024, 4, 1), Tiles(1, 1, 1, 8, 1024, 8, 1), Tiles(1, 1, 1, 16, 1024, 8, 1),
        Tiles(1, 1, 1, 4, 1024, 4, 3), Tiles(1, 1, 1, 8, 512, 4, 3), Tiles(1, 1, 1, 8, 1024, 8, 3),
        Tiles(1, 1, 1, 16, 512, 4, 3),
    ),
    "weight gemv": (
        Tiles(1, 1, 1, 4, 1024, 4, 1), Tiles(1, 1, 1, 8, 1024, 8, 1), Tiles(1, 1, 1, 16, 1024, 8, 1),
        Tiles(1, 1, 1, 4, 1024, 4, 3), Tiles(1, 1, 1, 8, 512, 4, 3), Tiles(1, 1, 1, 8, 1024, 8, 3),
        Tiles(1, 1, 1, 16, 512, 4, 3),
    ),
    "weight gemm": (  # int8 weights, float activations
        Tiles(1, 16, 16, 32, 128, 4, 4), Tiles(1, 16, 16, 64, 128, 4, 4), Tiles(1, 16, 16, 64, 256, 8, 3),
        Tiles(32, 64, 32, 64, 128, 4, 4), Tiles(64, 128, 64, 64, 128, 4, 4), Tiles(64, 256, 64, 128, 64, 4, 4),
        Tiles(128, 8192, 128, 128, 64, 8, 4), Tiles(256, 8192, 256, 128, 64, 8, 3),
        Tiles(256, 8192, 128, 256, 64, 8, 3),
    ),
}
# fmt: on
GROUP = 8  # rows of tiles in a group
TUNING_MS = 8  # of measurement per entry of TILES

Launch = Callable[[Tiles], None]
_FASTEST: dict[Hashable, Tiles] = {}


def fitting(kernel: str, rows: int) -> tuple[Tiles, ...]:
    """The entries of TILES for `rows` rows of activations, at least one."""
    size = bucket(rows)
    return tuple(tiles for tiles in TILES[kernel] if tiles.low <= size <= tiles.high)


def meta(tiles: Tiles, kernel: Any) -> dict[str, int]:
    """The launch parameters of `kernel` that depend on the tiles, with warps and stages."""
    known = {
        "BM": tiles.bm,
        "BN": tiles.bn,
        "BK": tiles.bk,
        "SPLIT_K": tiles.split,
        "GROUP": GROUP,
        "STAGES": tiles.stages,
    }
    chosen = {name: value for name, value in known.items() if name in kernel.arg_names}
    return {**chosen, "num_warps": tiles.warps, "num_stages": tiles.stages}


def run(kernel: str, rows: int, key: Hashable, device: torch.device, launch: Launch) -> None:
    """Launch `kernel` with its fastest tiles for `rows` and `key`, which has everything else that affects its speed.

    If nothing can be timed (in the interpreter, or while a CUDA graph is recorded), the first fitting entry is used.
    """
    place = (kernel, bucket(rows), key, device)
    if place not in _FASTEST:
        candidates = fitting(kernel, rows)
        if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            launch(candidates[0])
            return
        _FASTEST[place] = min(candidates, key=lambda tiles: _milliseconds(launch, tiles))
    launch(_FASTEST[place])


def _milliseconds(launch: Launch, tiles: Tiles) -> float:
    try:
        return float(triton.testing.do_bench(lambda: launch(tiles), warmup=2, rep=TUNING_MS, return_mode="median"))
    except (OutOfResources, PTXASError):  # the tiles are too large for this GPU
        return float("inf")
    except RuntimeError as error:  # from a descriptor: this GPU's bulk copies cannot address the tiles
        if "invalid argument" not in str(error):
            raise
        return float("inf")
