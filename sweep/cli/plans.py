"""What `sweep run --dry-run` prints."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from sweep import sweeping
from sweep.cli.output import Output
from sweep.report.text import size
from sweep.runner import pending
from sweep.store import Store


def show_plan(sweep: sweeping.Sweep, output: Output) -> None:
    """The variants with exact sizes and predicted memory, and how many cells are left to do."""
    sizes = sweeping.sizes(sweep)
    with Store(sweep.workspace.database) as store:
        todo = pending(sweep.plan, store)
    if output.is_json:
        output.line(
            {
                "event": "plan",
                "run": sweep.plan.run,
                "variants": [{"variant": v.name, **sizes.get(v.quant or "", {})} for v in sweep.variants],
                "cells": [{"cell": cell.label, "done": cell not in todo} for cell in sweep.plan.cells],
            }
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("variant", "bits/weight", "file bytes", "file", "memory", "cells to do"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant in sweep.variants:
        known = sizes.get(variant.quant or "")
        left = sum(cell.variant == variant.name for cell in todo)
        if known is not None:
            figures = [f"{known['bits_per_weight']:.3f}", f"{known['file_bytes']:,}", size(known["file_bytes"])]
            table.add_row(variant.name, *figures, size(known["memory_bytes"]), str(left))
        else:
            length = Path(str(variant.file)).stat().st_size
            table.add_row(variant.name, "", f"{length:,}", size(length), "", str(left))
    output.show(table)
    total = sum(int(known["file_bytes"]) for known in sizes.values())
    settings = sweep.plan.settings
    output.show(
        f"\n{len(todo)} of {len(sweep.plan.cells)} cells to do; {total:,} bytes of files. "
        f"Memory: weights, {settings.ctx} tokens of {settings.kv_type} KV cache and buffers, by llama.cpp's own plan."
    )
    tasks = ", ".join(task.name + (f" (first {task.limit})" if task.limit else "") for task in sweep.tasks)
    output.show(f"Reference {sweep.plan.reference}; text {sweep.text.name}; tasks: {tasks or 'none'}.")
