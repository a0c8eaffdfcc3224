"""What the runs of a workspace measured of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.catalogue import are_relatives
from presets.advice import Tolerance
from sweep.analysis.candidate import TaskEvidence
from sweep.analysis.fit_candidates import MeasuredSpeed, Measurements
from sweep.analysis.priors import MeasuredKld, RelativeKld
from sweep.workspace import Workspace

if TYPE_CHECKING:
    from sweep.record import Record
    from sweep.results.plan import Plan


def measurements(workspace: Workspace, model: str, tolerance: Tolerance | None = None) -> Measurements:
    """By variant, what the runs of `model` measured.

    Divergences from different references or texts are not comparable. If there are several, those of the reference and
    text with the most variants are returned; among equals, the latest. What tasks say is taken from the run with the
    most items. Unstable speeds are left out, and so are those of int8 recipes and of models with experts in RAM.
    """
    if not workspace.database.is_file():
        return Measurements()
    # Imported here because scipy takes half a second to load, and most calls of `sweep fit` do not need it.
    from sweep.analysis.run_commands import variant_files
    from sweep.analysis.task_evidence import task_evidence
    from sweep.results.history import UnreadableRun, read_plan
    from sweep.results.records import records, reference_units
    from sweep.results.store import Store

    groups: dict[str, dict[str, MeasuredKld]] = defaultdict(dict)
    tasks: dict[str, TaskEvidence] = {}
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
            files = variant_files(plan, workspace) | files
            rows = records(plan, store)
            for record in rows:
                units, kld = reference_units(plan, record.variant), _kld(record, plan)
                if units is not None and kld is not None:
                    groups[units].setdefault(record.variant, kld)
                speed = _speed(record)
                if speed is not None:
                    speeds[record.variant].append(speed)
            for variant, found in task_evidence(rows, tolerance).items():
                known = tasks.get(variant)
                if known is None or known.items * len(known.tasks) < found.items * len(found.tasks):
                    tasks[variant] = found
    return Measurements(max(groups.values(), key=len, default={}), tasks, files, relatives, speeds)


def _of_relative(rows: Sequence[Record]) -> list[RelativeKld]:
    """The divergences that a run measured of another model, and the number of weights of that model."""
    return [
        RelativeKld(row.variant, row.divergence.kld_mean, 8 * row.file_bytes / row.bits_per_weight)
        for row in rows
        if row.divergence is not None and row.file_bytes and row.bits_per_weight and row.variant != row.reference
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
    reference = plan.reference_of(record.variant)
    if record.variant == reference and record.perplexity is not None:
        return MeasuredKld(0.0, 0.0, reference, plan.run)
    if record.divergence is not None:
        return MeasuredKld(record.divergence.kld_mean, record.divergence.kld_stderr, reference, plan.run)
    return None
