"""A finished run with fixed figures in a real store, so that pictures are the same on every machine."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from sweep.artefact import Artefact
from sweep.events import Event
from sweep.items import Item
from sweep.jobs.base import StoredJob
from sweep.jobs.cell import Cell
from sweep.jobs.export import ExportJob
from sweep.jobs.inputs import Task, TextFile
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.speed import SpeedJob
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob
from sweep.results.plan import Plan
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace

RUN = "micro-q2-q8-000000"
WINDOWS, ITEMS = 24, 200
# variant, bits per weight, mean divergence, share of correctly answered items
ROWS = (
    ("BF16", 16.01, None, 0.90),
    ("Q2_K", 3.23, 0.0210, 0.78),
    ("Q3_K_M", 4.08, 0.0035, 0.88),
    ("Q4_K_M", 4.87, 0.0014, 0.89),
    ("Q4_0", 4.95, 0.0041, 0.86),
    ("Q8_0", 8.52, 0.00007, 0.90),
)
FAILED = "IQ4_XS"
ERROR = "ne0 % 256 == 0 is not so"
SKIPPED = f"needs {FAILED}/export, which failed: {ERROR}"


def fixed_run(workspace: Workspace) -> Plan:
    """Write the run to the store, with an event log."""
    variants = (*(row[0] for row in ROWS), FAILED)
    cells = tuple(Cell(f"{v} {name}", v, name, job) for v in variants for name, job in _jobs(v).items())
    about = {"model": "micro (built in)", "text": "a text", "tasks": {"micro_sums": ITEMS}, "engine": ""}
    plan = Plan(RUN, "micro", "q2-q8", "BF16", variants, Settings(ctx=1024), ComputeResources(), about, cells)
    workspace.root.mkdir(parents=True, exist_ok=True)
    with Store(workspace.database) as store:
        store.add_run(plan.run, json.loads(json.dumps(plan.to_json())))
        for row in ROWS:
            _put(store, *row)
        store.put(f"{FAILED} export", Outcome("failed", None, ERROR, 0.0))
        for name in ("speed", "text", "micro_sums"):
            store.put(f"{FAILED} {name}", Outcome("skipped", None, SKIPPED, 0.0))
    directory = workspace.run(RUN)
    directory.mkdir(parents=True)
    events = [Event("started", None, {"run": RUN, "cells": len(cells), "todo": len(cells), "pending": []}, 0.0)]
    events[0].data["pending"] = [cell.label for cell in cells]
    for cell in cells:
        kind, data = "cell_done", {"seconds": 1.5}
        if cell.variant == FAILED:
            kind, data = (
                ("cell_failed", {"error": ERROR}) if cell.name == "export" else ("cell_skipped", {"error": SKIPPED})
            )
        events.append(Event(kind, cell.label, data, 1.0))
    lines = [event.to_json() for event in (*events, Event("done", None, {}, 2.0))]
    (directory / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return plan


def _jobs(variant: str) -> dict[str, StoredJob[Any]]:
    model = MeasuredModel("gguf", Artefact(f"/{variant}.gguf"), f"{variant} export", "", Settings())
    return {
        "export": ExportJob(Artefact("/micro"), "micro", variant, model.file, "", variant, ""),
        "speed": SpeedJob(model),
        "text": TextJob(model, TextFile("a text", Artefact("/text"), "")),
        "micro_sums": TaskJob(model, Task("micro_sums")),
    }


def _put(store: Store, variant: str, bits: float, divergence: float | None, right: float) -> None:
    # spread by fixed patterns, not by a generator whose stream a release of numpy may change
    wave = 1 + 0.3 * np.sin(np.arange(WINDOWS) * 1.7)
    nll = 0.78 + 0.1 * np.cos(np.arange(WINDOWS)) + (divergence or 0.0)
    size = int(5_111_808 * bits / 8)
    memory = {"predicted_bytes": size + 11_000_000, "measured_bytes": size + 12_000_000}
    speed = {"prompt_tokens_per_s": 12_000.0 + bits, "decode_tokens_per_s": 3_000.0 - bits}
    speed |= {"prompt_tokens": 512, "decode_tokens": 64, "prompt_repeats": 5, "decode_repeats": 5}
    file: dict[str, Any] = {"file_bytes": size, "bits_per_weight": bits}
    results: dict[str, dict[str, Any]] = {
        "export": file,
        "speed": {"speed": speed, "load_seconds": 0.01, "memory": memory, **file},
        "text": _text(nll, None if divergence is None else divergence * wave),
        "micro_sums": _score(right),
    }
    for name, result in results.items():
        own = _items(right) if name == "micro_sums" else []
        store.put(f"{variant} {name}", Outcome("ok", result, None, 1.5), own)


def _items(right: float) -> list[Item]:
    """Items of which the first ones are answered correctly, so that a worse variant fails on more of the same items."""
    return [Item(i, f"d{i}", f"p{i}", float(i < right * ITEMS), "", subject="micro_sums") for i in range(ITEMS)]


def _score(right: float) -> dict[str, Any]:
    stderr = float(np.sqrt(right * (1 - right) / ITEMS))
    score = {"metric": "exact_match", "value": round(right * ITEMS) / ITEMS, "stderr": stderr, "n": ITEMS, "notes": []}
    return score | {"chance": 0.0, "higher_is_better": True, "other": {}, "settings": {"max_gen_toks": None}}


def _text(nll: np.ndarray, kld: np.ndarray | None) -> dict[str, Any]:
    value = float(np.exp(nll.mean()))
    perplexity = {"value": value, "stderr": 0.02, "tokens": 255 * WINDOWS, "window_nll": nll.tolist()}
    divergence = None
    if kld is not None:
        mean = float(kld.mean())
        figures = {"kld_mean": mean, "kld_stderr": float(kld.std() / np.sqrt(WINDOWS)), "kld_p99_9": 40 * mean}
        figures |= {"kld_max": 90 * mean, "top1_agreement": 1 - 5 * mean}
        divergence = {"figures": figures, "tokens": 255 * WINDOWS, "window_kld": kld.tolist()}
    return {
        "windows_sha256": "0",
        "perplexity": perplexity | {"low": value - 0.04, "high": value + 0.04},
        "divergence": divergence,
        "noise_floor": {"kld_mean": 1e-15, "windows": 2} if kld is None else None,
    }
