"""The plan that `sweep run --dry-run` prints."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from sweep.cli.output import Output
from sweep.cli.run_output import cache_words, texts_of
from sweep.commands.prediction import effort_words, precision_words, time_words
from sweep.commands.run import projector_sizes, variant_sizes
from sweep.execution.cells_to_run import cells_to_run
from sweep.format import size
from sweep.jobs.projector import ProjectorResult
from sweep.jobs.registry import measurement_names
from sweep.planning.effort import Effort
from sweep.planning.prepare import Sweep
from sweep.results.estimate import bytes_to_make, predicted_seconds, rough_seconds, total
from sweep.results.store import Store


def show_plan(sweep: Sweep, output: Output) -> None:
    """Print the variants with exact sizes and predicted memory, and how many jobs are to do."""
    sizes, towers = variant_sizes(sweep), projector_sizes(sweep)
    files = {key: tower.file_bytes for key, tower in towers.items()}
    tower_of = {cell.variant: towers[cell.key] for cell in sweep.plan.cells if cell.key in towers}
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
                        **({"projector": _projector(tower_of[v.name])} if v.name in tower_of else {}),
                    }
                    for v in sweep.variants
                ],
                "published": list(sweep.published),
                "skipped": {name: asdict(why) for name, why in sweep.plan.skipped.items()},
                "cells": [
                    {"cell": cell.label, "done": cell not in todo, "seconds": seconds.get(cell.label)}
                    for cell in sweep.plan.cells
                ],
                "seconds": total(seconds, (cell.label for cell in todo)),
                "rough_seconds": total(rough, (cell.label for cell in todo)),
                "effort": sweep.request.effort or Effort.NORMAL,
                "precision": sweep.precision.value,
                "precision_reason": sweep.precision.reason or None,
                "bytes_to_make": bytes_to_make(todo, sizes, files),
                "cannot_run": sweep.cannot_run,
                "reference": sweep.plan.reference,
                "measure": list(sweep.inputs.measure or measurement_names()),
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
    columns = [
        "variant",
        "bits/weight",
        "file bytes",
        "file",
        *(["mmproj"] if tower_of else []),
        "memory",
        "jobs to do",
    ]
    for column in columns:
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant in sweep.variants:
        known, tower = sizes.get(variant.name), tower_of.get(variant.name)
        projector = ["" if tower is None else size(tower.file_bytes)] if tower_of else []
        beside = 0 if tower is None else tower.memory_bytes
        left = sum(cell.variant == variant.name for cell in todo)
        if known is not None:
            length = f"{'' if known.header_exact else '~'}{known.file_bytes:,}"
            figures = [f"{known.bits_per_weight:.3f}", length, size(known.file_bytes)]
            cells = "skipped" if variant.name in sweep.plan.skipped else str(left)
            table.add_row(variant.name, *figures, *projector, size(known.memory_bytes + beside), cells)
        else:
            taken = variant.file_bytes
            table.add_row(variant.name, "", f"{taken:,}", size(taken), *projector, "", str(left))
    output.show(table)
    needed = bytes_to_make(sweep.plan.cells, sizes, files)
    settings = sweep.plan.settings
    output.show(
        f"\n{len(todo)} of {len(sweep.plan.cells)} jobs to do; {needed:,} bytes of files. "
        f"Memory: weights, {cache_words(sweep.plan)} KV cache for {settings.ctx} tokens, and buffers, computed by "
        "llama.cpp." + (" The memory of the projector file (mmproj) is part of it." if tower_of else "")
    )
    for line in (effort_words(sweep), precision_words(sweep), time_words(sweep)):
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
    if sweep.inputs.measure:
        output.show(f"Measurements: {', '.join(sweep.inputs.measure)}.")
    if sweep.inputs.depths:
        output.show(f"Speed is measured after {', '.join(f'{depth:,}' for depth in (0, *sweep.inputs.depths))} tokens.")
    output.show(f"Reference {sweep.plan.reference}; text {texts_of(sweep.plan)}; tasks: {tasks or 'none'}.")
    for reason in sweep.cannot_run:
        output.show(f"This sweep cannot be run. {reason}")


def _projector(tower: ProjectorResult) -> dict[str, int]:
    return {"file_bytes": tower.file_bytes, "memory_bytes": tower.memory_bytes}
