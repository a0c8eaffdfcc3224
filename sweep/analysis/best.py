"""The variant to run on given devices: the one with the lowest measured KL divergence, or a guess by size."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sweep import format as fmt
from sweep.fit.fit_report import FitReport, FitRow, Verdict, verdict
from sweep.workspace import Workspace


@dataclass(frozen=True)
class MeasuredKld:
    """A variant's mean KL divergence from `reference` with its standard error, in nats per token, and its run."""

    kld: float
    stderr: float
    reference: str
    run: str


@dataclass(frozen=True)
class BestVariant:
    """`variant` is None if nothing fits. `measured`: chosen by divergence, not by size."""

    variant: str | None
    measured: bool
    sentence: str


def measured_klds(workspace: Workspace, model: str) -> dict[str, MeasuredKld]:
    """By variant, the divergences that runs of `model` measured from one reference over the same windows of one text.

    Divergences from different references or texts are not comparable. If there are several, those of the reference and
    text with the most variants are returned; among equals, the latest.
    """
    if not workspace.database.is_file():
        return {}
    # Imported here because scipy takes half a second to load, and `sweep fit` without --best does not need it.
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


def best(report: FitReport, klds: dict[str, MeasuredKld]) -> BestVariant:
    """The variant with the lowest divergence among those that fit. Variants partly in RAM are not considered."""
    rows = [row for row in report.rows if verdict(row) is Verdict.FITS]
    if not rows:
        return BestVariant(None, False, _closest(report))
    measured = [row for row in rows if row.variant in klds]
    if not measured:
        # Bits beyond 16 gain nothing: the model was published in BF16.
        row = max(rows, key=lambda row: (min(row.bits_per_weight, 16.0), row.variant == "BF16"))
        return BestVariant(
            row.variant,
            False,
            f"Of the variants that fit, {_named(row)} has the most bits per weight. This is a guess by size alone: no "
            "run in this workspace has measured the model. `sweep run` measures it.",
        )
    row = min(measured, key=lambda row: (klds[row.variant].kld, row.file_bytes))
    loss = klds[row.variant]
    others = [other.variant for other in rows if other not in measured and other.bits_per_weight > row.bits_per_weight]
    not_measured = f" Larger variants that also fit are not measured: {', '.join(others)}." if others else ""
    rank = (
        f"the lowest of the {len(measured)} measured variants that fit"
        if len(measured) > 1
        else "and no other measured variant fits"
    )
    if row.variant == loss.reference:
        why = "it fits, and it is the reference that the other variants are compared with"
    else:
        kld = f"{fmt.small(loss.kld)} ± {fmt.small(loss.stderr)} nats"
        why = f"its mean KL divergence from {loss.reference} is {kld}, {rank}"
    return BestVariant(row.variant, True, f"Run {_named(row)}: {why} (run {loss.run}).{not_measured}")


def _closest(report: FitReport) -> str:
    """If nothing fits: which variant misses by least, and with how much of it in RAM it would run."""
    if not report.rows:
        return "No variant was requested."
    closest = max(report.rows, key=lambda row: row.headroom_bytes)
    text = f"The closest is {_named(closest)}, which is {fmt.size(-closest.headroom_bytes)} too large"
    if verdict(closest) is Verdict.PARTLY:
        text += f" and runs with {fmt.size(closest.shares[-1].total_bytes)} of it in RAM"
    return f"No variant fits at a context of {report.context:,} tokens. {text}."


def _named(row: FitRow) -> str:
    return f"{fmt.plain(row.variant)} ({fmt.size(row.file_bytes)}, {row.bits_per_weight:.2f} bits per weight)"
