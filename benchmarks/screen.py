"""Latency of the screen: from a key to the frame that shows its effect, and from the start to the first frame.

    python benchmarks/screen.py --records 10000

It fills a store with records of invented figures, runs `sweep tui` on a pseudo-terminal of 140 x 40 characters, and
sends keys. The latency of a key ends with the last frame before 100 ms without a frame. Each screen is measured twice:
alone, and while a sweep of the built-in model is running. For comparison it also measures Textual itself, with an
application that is a single DataTable.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terminal import Redraw, TimedTerminal

from sweep.artefact import Artefact
from sweep.commands.launch import Command, Launch
from sweep.jobs.base import StoredJob
from sweep.jobs.cell import Cell
from sweep.jobs.export import ExportJob
from sweep.jobs.inputs import TextFile
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.speed import SpeedJob
from sweep.jobs.text import TextJob
from sweep.results.plan import Plan
from sweep.results.store import Store
from sweep.workspace import Workspace

VARIANTS = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
RUN = "micro-made-000001"
DOWN, UP, ESCAPE = "\x1b[B", "\x1b[A", "\x1b"
TEXTUAL_ALONE = """
from textual.app import App
from textual.widgets import DataTable

class Alone(App):
    def compose(self):
        yield DataTable(cursor_type="row")

    def on_mount(self):
        table = self.query_one(DataTable)
        table.add_columns(*(f"column {i}" for i in range(12)))
        for row in range(8):
            table.add_row(*(f"{row * i:.4f}" for i in range(12)))
        table.focus()

Alone().run()
"""


@dataclass(frozen=True)
class Case:
    """`keys` are sent in each round, after `lead`, which is sent once; `back` undoes a round."""

    name: str
    keys: tuple[str, ...]
    lead: tuple[str, ...] = ()
    back: tuple[str, ...] = ()


FIT = (
    Case("down, up", (DOWN, "j", "k", UP)),
    Case("[ ] context", ("]", "[")),
    Case("K, M", ("K", "M")),
    Case("space marks", (" ",)),
    Case("f only what fits", ("f",)),
    Case("typing in the filter", tuple("q4_k"), ("/",), ("\x7f",) * 4),
)
PLAN = (
    Case("down, up", (DOWN, "j", "k", UP)),
    Case("space marks", (" ",)),
    Case("typing in the filter", tuple("q4_k"), ("/",), ("\x7f",) * 4),
)
RUNNING = (
    Case("down, up", (DOWN, "j", "k", UP)),
    Case("right, left", ("l", "h")),
)
RESULTS = (
    Case("down, up", (DOWN, "j", "k", UP)),
    Case("last, first", ("G", "g")),
    Case("s S sort", ("s", "S")),
    Case("X Y axes", ("X", "Y")),
    Case("space marks", (" ", "j")),
    Case("typing in the filter", tuple("q4_k"), ("/",), ("\x7f",) * 4),
)
RUNS = (
    Case("typing a search", tuple("micro made 00012"), (), ("\x7f",) * 16),
    Case("down, up", ("j", "j", "k", "j"), (DOWN,)),
)
SWITCHING = (Case("1 2 3 4", ("1", "2", "3", "4")),)
# screen, keys that open it from the results, cases measured there
SCREENS = (
    ("fit", "1", FIT),
    ("plan", "2", PLAN),
    ("run", "3", RUNNING),
    ("results", "", RESULTS),
    ("all runs", "o", RUNS),
    ("between screens", "1234", SWITCHING),
)
READY = 2.0  # seconds without a frame after which llama.cpp has computed what an opening screen needs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10, help="number of rounds per case")
    parser.add_argument("--only", default="", help="measure only screens whose names begin with this")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["BITSWEEP_STATE"] = directory  # not the user's own
        workspace = Workspace(Path(directory))
        runs = fill(workspace, given.records)
        print(f"{given.records:,} records in {runs:,} runs, {workspace.database.stat().st_size / 1e6:.0f} MB")
        starts = sorted(1000 * first_frame(workspace) for _ in range(3))
        print(f"start to the first frame: median {statistics.median(starts):.0f} ms (n = {len(starts)})")
        print(f"\n{'ms':34}{'median':>8}{'95 %':>8}{'first':>8}{'CPU':>8}{'n':>6}")
        with closing(TimedTerminal([sys.executable, "-c", TEXTUAL_ALONE])) as terminal:
            terminal.wait_for("column 11")
            terminal.settle(1.0)
            report("Textual alone: down, up", measure(terminal, Case("", (DOWN, DOWN, UP, UP)), given.rounds))
        for load in ("alone", "with a running sweep"):
            print(f"{load}:")
            for name, lead, cases in SCREENS:
                if not name.startswith(given.only):
                    continue
                run = running_sweep(workspace) if load != "alone" else no_sweep()
                with run as shown, closing(opened(workspace, RUN if name != "run" else shown)) as terminal:
                    for key in lead:
                        terminal.send(key)
                        terminal.settle(READY)
                    for case in cases:
                        report(f"  {name}: {case.name}", measure(terminal, case, given.rounds))


def report(what: str, found: list[Redraw]) -> None:
    """Print latencies in ms: to the last frame, `first` to the first frame, and the mean of the program's CPU time."""
    if not found:
        print(f"{what:34}  no frame was drawn", flush=True)
        return
    last = sorted(1000 * one.last for one in found)
    high = last[min(len(last) - 1, round(0.95 * len(last)))]
    first = 1000 * statistics.median(one.first for one in found)
    spent = 1000 * statistics.mean(one.cpu for one in found)
    print(f"{what:34}{statistics.median(last):8.1f}{high:8.1f}{first:8.1f}{spent:8.1f}{len(last):6}", flush=True)


def measure(terminal: TimedTerminal, case: Case, rounds: int) -> list[Redraw]:
    """The redraws of all keys after which a frame was drawn."""
    for key in case.lead:
        terminal.press(key)
    found = []
    for _ in range(rounds):
        found += [terminal.press(key) for key in case.keys]
        for key in case.back:
            terminal.press(key)
    if case.lead:
        terminal.press(ESCAPE, quiet=0.3)
    terminal.settle(0.8)
    return [one for one in found if one is not None]


def opened(workspace: Workspace, run: str) -> TimedTerminal:
    """`sweep tui` at its results, or at the run while it is running."""
    command = "from sweep.cli import main; main()"
    terminal = TimedTerminal([sys.executable, "-c", command, "tui", run, "--workspace", str(workspace.root)])
    terminal.settle(READY)
    return terminal


@contextmanager
def no_sweep() -> Iterator[str]:
    yield RUN


@contextmanager
def running_sweep(workspace: Workspace) -> Iterator[str]:
    """Run a sweep of the built-in model that lasts longer than the measurement; yields the id of its run."""
    arguments = ("run", "micro", "--variants", "=Q4_K_M,Q2_K", "--tasks", "micro_sums")
    launch = Launch(Command(arguments, os.getcwd()), workspace)
    try:
        while (run := launch.run()) is None:
            pass
        yield run
    finally:
        os.killpg(launch.pid, signal.SIGKILL)


def fill(workspace: Workspace, records: int) -> int:
    """Store runs of eight variants with invented figures. Returns the number of runs."""
    runs = records // len(VARIANTS)
    with Store(workspace.database) as store:
        store._db.execute("PRAGMA synchronous = OFF")  # invented figures need no durability
        store._db.execute("BEGIN")
        for number in range(runs):
            cells = [Cell(f"{number} {v} {name}", v, name, job) for v in VARIANTS for name, job in jobs(v).items()]
            about = {"model": "micro", "text": "t", "tasks": {}, "engine": ""}
            name = f"micro-made-{number:06}"
            plan = Plan(name, "micro", "made", "BF16", VARIANTS, Settings(), ComputeResources(), about, tuple(cells))
            store._db.execute("INSERT INTO runs VALUES (?, ?, ?)", (name, float(number), json.dumps(plan.to_json())))
            for cell in cells:
                row = (cell.key, "ok", json.dumps(result(cell, number)), None, 1.0, 1.0, None)
                store._db.execute("INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        store._db.execute("COMMIT")
    return runs


def jobs(variant: str) -> dict[str, StoredJob[Any]]:
    model = MeasuredModel("gguf", Artefact(f"/{variant}.gguf"), "", "", Settings())
    return {
        "export": ExportJob(Artefact("/micro"), "micro", variant, model.file, "", variant, ""),
        "speed": SpeedJob(model),
        "text": TextJob(model, TextFile("a text", Artefact("/text"), "")),
    }


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
    divergence: dict[str, Any] = {"figures": figures | {"top1_agreement": 1 - mean}, "tokens": 15_300}
    divergence["window_kld"] = [mean * (1 + x) for x in windows]
    return {"windows_sha256": "0", "perplexity": value, "divergence": divergence, "noise_floor": None}


def first_frame(workspace: Workspace) -> float:
    """Seconds from the start of the program to the first drawn screen."""
    command = "from sweep.cli import main; main()"
    with closing(TimedTerminal([sys.executable, "-c", command, "tui", "--workspace", str(workspace.root)])) as terminal:
        return terminal.wait_for("Results")


if __name__ == "__main__":
    main()
