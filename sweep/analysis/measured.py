"""What the runs of a workspace measured of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.catalogue import are_relatives
from presets.advice import Tolerance
from sweep.analysis.candidate import TaskEvidence
from sweep.analysis.fit_candidates import F16, Losses, MeasuredSpeed, Measurements
from sweep.analysis.priors import MeasuredKld, RelativeKld
from sweep.variant_name import split_cache
from sweep.workspace import Workspace

if TYPE_CHECKING:
    from sweep.record import Record
    from sweep.results.plan import Plan


def measurements(workspace: Workspace, model: str, tolerance: Tolerance | None = None) -> Measurements:
    """By variant without its KV cache, what the runs of `model` measured.

    Divergences from different references or texts are not comparable. If there are several, those of the reference and
    texts with the most variants are returned; among equals, the latest. Of several texts of a run, the one with the
    largest divergence of a variant counts, as in the run's advice. Those with different types of KV cache are kept
    apart. What tasks say is taken from the run with the
    most items. Unstable speeds are left out, and so are those of int8 recipes and of models with experts in RAM.
    """
    if not workspace.database.is_file():
        return Measurements(workspace=workspace.arguments)
    # Imported here because scipy takes half a second to load, and most calls of `sweep fit` do not need it.
    from sweep.analysis.figures import mean_recovery
    from sweep.analysis.run_commands import variant_files
    from sweep.analysis.task_evidence import task_evidence
    from sweep.results.history import UnreadableRun, read_plan
    from sweep.results.records import records, reference_units
    from sweep.results.store import Store

    groups: dict[str, dict[tuple[str, str], MeasuredKld]] = defaultdict(dict)  # by cache and variant
    tasks: dict[tuple[str, str], TaskEvidence] = {}
    recovery: dict[tuple[str, str], float] = {}
    files: dict[str, str] = {}
    relatives: list[RelativeKld] = []
    speeds: dict[str, list[MeasuredSpeed]] = defaultdict(list)
    with Store(workspace.database) as store:
        for stored in store.runs():  # the newest first
            plan = read_plan(stored)
            if isinstance(plan, UnreadableRun) or not plan.is_current:
                continue
            if are_relatives(plan.model, model):
                relatives += _of_relative(records(plan, store))
            if plan.model != model:
                continue
            files = {split_cache(name)[0]: file for name, file in variant_files(plan, workspace).items()} | files
            rows = records(plan, store)
            caches = {record.variant: _cache(record) for record in rows}
            plain = {record.variant: split_cache(record.variant)[0] for record in rows}
            for record in rows:
                units, kld = reference_units(plan, record.variant), _kld(record, plan)
                if units is not None and kld is not None:
                    groups[_group(units, rows)].setdefault((_cache(record), plain[record.variant]), kld)
                speed = _speed(record)
                if speed is not None:
                    speeds[plain[record.variant]].append(speed)
            recovered = mean_recovery(rows)
            for variant, found in task_evidence(rows, tolerance).items():
                known = tasks.get((caches[variant], plain[variant]))
                if known is None or known.items * len(known.tasks) < found.items * len(found.tasks):
                    key = caches[variant], plain[variant]
                    tasks[key] = found
                    recovery.pop(key, None)
                    if variant in recovered:
                        recovery[key] = recovered[variant].value
    klds = max(groups.values(), key=len, default={})
    losses = {
        cache: Losses(
            {name: one for (own, name), one in klds.items() if own == cache},
            {name: one for (own, name), one in tasks.items() if own == cache},
            {name: one for (own, name), one in recovery.items() if own == cache},
        )
        for cache in {F16, *(cache for cache, _ in (*klds, *tasks))}
    }
    usual = losses.pop(F16)
    return Measurements(usual.klds, usual.tasks, files, relatives, speeds, losses, workspace.arguments, usual.recovery)


def _cache(record: Record) -> str:
    """The type of KV cache that a record's figures are for. What torch runs has one of its own."""
    return record.kv_type if record.kind == "gguf" else F16


def _of_relative(rows: Sequence[Record]) -> list[RelativeKld]:
    """The divergences that a run measured of another model, and the number of weights of that model."""
    return [
        RelativeKld(row.variant, row.divergence.kld_mean, 8 * row.file_bytes / row.bits_per_weight)
        for row in rows
        if row.divergence is not None and row.file_bytes and row.bits_per_weight and row.variant != row.reference
        if _cache(row) == F16
    ]


def _speed(record: Record) -> MeasuredSpeed | None:
    from sweep.analysis import figures

    if record.speed is None or not record.speed.decode_runs:  # of an earlier version: nobody knows whether it is stable
        return None
    tokens_per_s = figures.reliable_speed(record)
    layers = record.settings.get("gpu_layers")
    if tokens_per_s is None or record.kind != "gguf" or not isinstance(layers, int) or record.settings.get("cpu_moe"):
        return None
    return MeasuredSpeed(tokens_per_s, record.kv_type, 0 if record.device == "cpu" else layers)


def _kld(record: Record, plan: Plan) -> MeasuredKld | None:
    from sweep.analysis import figures

    reference = plan.reference_of(record.variant)
    if record.variant == reference and record.perplexity is not None:
        return MeasuredKld(0.0, 0.0, reference, plan.run)
    found = figures.largest_kld(record)
    if found is None:
        return None
    largest, tokens = found
    return MeasuredKld(largest.value, largest.stderr or 0.0, reference, plan.run, tokens)


def _group(units: str, rows: Sequence[Record]) -> str:
    """What the divergences of a run are over: `units` of the first text, with the other texts and tasks with images."""
    others = {name for row in rows for name in (*row.other_texts, *row.image_divergence)}
    return " ".join([units, *sorted(others)])
