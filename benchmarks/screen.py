"""How fast the screen answers: from a key to the picture that shows it, and from the start to the first picture.

    python benchmarks/screen.py --records 10000

A store of so many records is made up; then the results screen is driven by keys alone, beside a sweep of the built-in
model, and with the runs browser open on all of them. A key counts until the screen has nothing left to draw. The start
is a process of its own on a pseudo-terminal, until it draws its first screen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pty
import select
import statistics
import sys
import tempfile
import time
from pathlib import Path

from textual.pilot import Pilot

from sweep.launching import Command, Launch
from sweep.planning.cells import Cell
from sweep.planning.plan import Plan
from sweep.planning.settings import Settings
from sweep.results.store import Store
from sweep.workspace import Workspace
from tui.app import SweepApp

VARIANTS = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
KEYS = ("j", "j", "j", "k", "k", "s", "S", "x", "y", "m", "G", "g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10, help="how often the keys are gone through")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        workspace = Workspace(Path(directory))
        runs = fill(workspace, given.records)
        print(f"{given.records:,} records in {runs:,} runs, {workspace.database.stat().st_size / 1e6:.0f} MB")
        tell("start to the first picture", [first_picture(workspace) for _ in range(5)])
        tell("key to picture, results", asyncio.run(keys(workspace, given.rounds, sweeping=False)))
        tell("key to picture, results, a sweep at work", asyncio.run(keys(workspace, given.rounds, sweeping=True)))
        tell("key to picture, run screen, a sweep at work", asyncio.run(watching(workspace, given.rounds)))
        tell("key to picture, searching all runs", asyncio.run(searching(workspace, runs)))


def tell(what: str, seconds: list[float]) -> None:
    ordered = sorted(1000 * second for second in seconds)
    last = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    print(
        f"{what}: median {statistics.median(ordered):.1f} ms, 95 % under {last:.1f} ms (n = {len(ordered)})", flush=True
    )


def fill(workspace: Workspace, records: int) -> int:
    """Runs of eight variants with made-up figures; gives how many."""
    runs = records // len(VARIANTS)
    with Store(workspace.database) as store:
        store._db.execute("PRAGMA synchronous = OFF")  # made up: nothing is lost with it
        store._db.execute("BEGIN")
        for number in range(runs):
            cells = [
                Cell(f"{number} {v} {kind}", v, kind, kind, {"file": f"/{v}"})
                for v in VARIANTS
                for kind in ("export", "speed", "text")
            ]
            about = {"model": "micro", "text": "t", "tasks": {}, "engine": "", "skipped": {}}
            name = f"micro-made-{number:06}"
            plan = Plan(name, "micro", "made", "BF16", VARIANTS, Settings(), about, tuple(cells))
            store._db.execute("INSERT INTO runs VALUES (?, ?, ?)", (name, float(number), json.dumps(plan.to_json())))
            for cell in cells:
                row = (cell.key, "ok", json.dumps(result(cell, number)), None, 1.0, 1.0)
                store._db.execute("INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?)", row)
        store._db.execute("COMMIT")
    return runs


def result(cell: Cell, number: int) -> dict[str, object]:
    place = VARIANTS.index(cell.variant)
    bits = 16.0 / (1 + 0.5 * place)
    file = {"file_bytes": int(1e6 * bits), "bits_per_weight": bits}
    if cell.kind == "export":
        return dict(file)
    if cell.kind == "speed":
        speed = {"prompt_tokens_per_s": 1000.0 + number, "decode_tokens_per_s": 100.0 + place}
        memory = {"predicted_bytes": int(1.1e6 * bits), "measured_bytes": int(1.2e6 * bits)}
        return {"speed": speed, "memory": memory, "load_seconds": 0.1, **file}
    windows = [0.5 + 0.01 * i for i in range(60)]
    value = {
        "value": 2.0 + 0.01 * place,
        "stderr": 0.02,
        "tokens": 15_300,
        "window_nll": windows,
        "low": 1.9,
        "high": 2.1,
    }
    if place == 0:
        floor = {"kld_mean": 1e-15, "windows": 2}
        return {"windows_sha256": "0", "perplexity": value, "divergence": None, "noise_floor": floor}
    mean = 1e-4 * 3**place
    figures = {"kld_mean": mean, "kld_stderr": 0.1 * mean, "kld_p99_9": 40 * mean, "kld_max": 90 * mean}
    divergence = {"figures": figures | {"top1_agreement": 1 - mean}, "window_kld": [mean * (1 + x) for x in windows]}
    return {"windows_sha256": "0", "perplexity": value, "divergence": divergence, "noise_floor": None}


async def press(pilot: Pilot[None], key: str) -> float:
    """Seconds from a key until the screen is drawn and waits."""
    started = time.perf_counter()
    await pilot.press(key)
    await pilot._wait_for_screen()
    return time.perf_counter() - started


async def keys(workspace: Workspace, rounds: int, sweeping: bool) -> list[float]:
    app = SweepApp(workspace, "micro-made-000001", "results")
    async with app.run_test(size=(140, 40)) as pilot:
        while getattr(app.screen, "results", None) is None:
            await pilot.pause(0.05)
        launch = begin(workspace) if sweeping else None
        await pilot.pause(1.0)
        found = [await press(pilot, key) for _ in range(rounds) for key in KEYS]
        if launch is not None:
            os.killpg(launch.pid, 9)
        return found


async def watching(workspace: Workspace, rounds: int) -> list[float]:
    app = SweepApp(workspace, None, "run")
    async with app.run_test(size=(140, 40)) as pilot:
        app.launch = launch = begin(workspace)
        app.screen.watch_run()  # type: ignore[attr-defined]
        while app.launch is not None or getattr(app.screen, "snapshot", None) is None:
            await pilot.pause(0.05)
        found = [await press(pilot, key) for _ in range(rounds) for key in ("j", "l", "k", "h", "G", "g")]
        os.killpg(launch.pid, 9)
        return found


async def searching(workspace: Workspace, runs: int) -> list[float]:
    app = SweepApp(workspace, "micro-made-000001", "results")
    async with app.run_test(size=(140, 40)) as pilot:
        await pilot.press("o")
        while len(getattr(app.screen, "_runs", ())) < runs:
            await pilot.pause(0.05)
        typed = [await press(pilot, key) for key in "micro made 00012"]
        await pilot.press("down")
        return typed + [await press(pilot, "j") for _ in range(40)]


def begin(workspace: Workspace) -> Launch:
    """A sweep of the built-in model that lasts longer than the keys do."""
    arguments = ("run", "micro", "--variants", "=Q4_K_M,Q2_K", "--tasks", "micro_sums")
    return Launch(Command(arguments, os.getcwd()), workspace)


def first_picture(workspace: Workspace) -> float:
    """Seconds from starting the program to the first drawn screen."""
    started = time.perf_counter()
    pid, ours = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color")
        command = [
            sys.executable,
            "-c",
            "from sweep.cli import main; main()",
            "tui",
            "--workspace",
            str(workspace.root),
        ]
        os.execv(command[0], command)
    drawn = b""
    while b"Results" not in drawn:
        if select.select([ours], [], [], 30)[0]:
            drawn += os.read(ours, 1 << 16)
    seconds = time.perf_counter() - started
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(ours)
    return seconds


if __name__ == "__main__":
    main()
