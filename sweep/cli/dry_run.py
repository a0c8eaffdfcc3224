"""The plan that `sweep run --dry-run` prints."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from sweep.cli.output import Output
from sweep.cli.run_output import cache_words, texts_of
from sweep.commands.prediction import effort_words, time_words
from sweep.commands.run import variant_sizes
from sweep.execution.cells_to_run import cells_to_run
from sweep.format import size
from sweep.planning.effort import Effort
from sweep.planning.prepare import Sweep
from sweep.results.estimate import bytes_to_make, predicted_seconds, rough_seconds, total
from sweep.results.store import Store


def show_plan(sweep: Sweep, output: Output) -> None:
    """Print the variants with exact sizes and predicted memory, and how many jobs are to do."""
    sizes = variant_sizes(sweep)
    with Store(sweep.workspace.database) as store:
        todo = cells_to_run(sweep.plan.cells, store, sweep.workspace.root)
        seconds, rough = predicted_seconds(sweep.plan, store), rough_seconds(sweep.plan, store)
    if output.is_json:
        output.line(
            {
                "event": "plan",
                "run": sweep.plan.run,
                "variants": [
                    {
                        "variant": v.name,
                        **(sizes[v.name].to_json() if v.name in sizes else {"file_bytes": v.file_bytes}),
                    }
                    for v in sweep.variants
                ],
                "skipped": {name: asdict(why) for name, why in sweep.plan.skipped.items()},
                "cells": [
                    {"cell": cell.label, "done": cell not in todo, "seconds": seconds.get(cell.label)}
                    for cell in sweep.plan.cells
                ],
                "seconds": total(seconds, (cell.label for cell in todo)),
                "rough_seconds": total(rough, (cell.label for cell in todo)),
                "effort": sweep.request.effort or Effort.NORMAL,
                "bytes_to_make": bytes_to_make(todo, sizes),
                "cannot_run": sweep.cannot_run,
                "reference": sweep.plan.reference,
                "text": sweep.plan.about["text"],
                "other_texts": sweep.plan.about["other_texts"],
                "tasks": sweep.plan.about["task_settings"],
                "settings": {
                    **asdict(sweep.plan.settings),
                    "threads": sweep.plan.resources.threads,
                    "device": sweep.plan.resources.device("llama.cpp"),
                },
            }
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("variant", "bits/weight", "file bytes", "file", "memory", "jobs to do"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant in sweep.variants:
        known = sizes.get(variant.name)
        left = sum(cell.variant == variant.name for cell in todo)
        if known is not None:
            length = f"{'' if known.header_exact else '~'}{known.file_bytes:,}"
            figures = [f"{known.bits_per_weight:.3f}", length, size(known.file_bytes)]
            cells = "skipped" if variant.name in sweep.plan.skipped else str(left)
            table.add_row(variant.name, *figures, size(known.memory_bytes), cells)
        else:
            taken = variant.file_bytes
            table.add_row(variant.name, "", f"{taken:,}", size(taken), "", str(left))
    output.show(table)
    needed = bytes_to_make(sweep.plan.cells, sizes)
    settings = sweep.plan.settings
    output.show(
        f"\n{len(todo)} of {len(sweep.plan.cells)} jobs to do; {needed:,} bytes of files. "
        f"Memory: weights, {cache_words(sweep.plan)} KV cache for {settings.ctx} tokens, and buffers, computed by "
        "llama.cpp."
    )
    for line in (effort_words(sweep), time_words(sweep)):
        if line is not None:
            output.show(line)
    mtp = max((known.mtp_bytes for known in sizes.values()), default=0)
    if mtp:
        output.show(f"This includes multi-token prediction layers: up to {size(mtp)} per file.")
    if not all(known.header_exact for known in sizes.values()):
        output.show(
            "~ The tensors are exact. The header is estimated, because the tokenizer or the importance matrix is not "
            "on this machine."
        )
    tasks = "; ".join(f"{task.name} ({task.options.words})" for task in sweep.inputs.tasks)
    output.show(f"Reference {sweep.plan.reference}; text {texts_of(sweep.plan)}; tasks: {tasks or 'none'}.")
    for reason in sweep.cannot_run:
        output.show(f"This sweep cannot be run. {reason}")
