"""The KL divergences that the runs of a workspace measured for a model."""

from __future__ import annotations

from collections import defaultdict

from sweep.analysis.priors import MeasuredKld
from sweep.workspace import Workspace


def measured_klds(workspace: Workspace, model: str) -> dict[str, MeasuredKld]:
    """By variant, the divergences that runs of `model` measured from one reference over the same windows of one text.

    Divergences from different references or texts are not comparable. If there are several, those of the reference and
    text with the most variants are returned; among equals, the latest.
    """
    if not workspace.database.is_file():
        return {}
    # Imported here because scipy takes half a second to load, and most calls of `sweep fit` do not need it.
    from sweep.results.history import UnreadableRun, read_plan
    from sweep.results.records import records, reference_units
    from sweep.results.store import Store

    groups: dict[str, dict[str, MeasuredKld]] = defaultdict(dict)
    with Store(workspace.database) as store:
        for stored in store.runs():  # the newest first
            plan = read_plan(stored)
            if isinstance(plan, UnreadableRun) or plan.model != model or not plan.is_current:
                continue
            for record in records(plan, store):
                units = reference_units(plan, record.variant)
                if units is None:
                    continue
                loss = None
                reference = plan.reference_of(record.variant)
                if record.variant == reference and record.perplexity is not None:
                    loss = MeasuredKld(0.0, 0.0, reference, plan.run)
                elif record.divergence is not None:
                    loss = MeasuredKld(record.divergence.kld_mean, record.divergence.kld_stderr, reference, plan.run)
                if loss is not None:
                    groups[units].setdefault(record.variant, loss)
    return max(groups.values(), key=len, default={})
