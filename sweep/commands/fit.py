"""`sweep fit`: computes which variants of a model fit on which devices, and which of them to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from converters.catalogue import smaller_relatives
from sweep.analysis.advice import Advice, Candidate, advise, candidates
from sweep.analysis.priors import MeasuredKld
from sweep.execution.local import LocalHost
from sweep.fit.fit_report import FitOptions, FitReport
from sweep.fit.hardware import Device
from sweep.planning import fit as planning_fit

SMALLER_CACHE = "q8_0"
"""The type of KV cache that the advice may choose besides f16."""
MOST_RELATIVES = 3  # how many smaller models are tried


def fit(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """See planning.fit.fit."""
    return planning_fit.fit(model, variants, devices, options, LocalHost().run_job)


def advise_on(
    report: FitReport,
    variants: Sequence[str],
    devices: Sequence[Device],
    options: FitOptions,
    klds: Mapping[str, MeasuredKld],
    *,
    model: str,
    other_caches: bool,
) -> Advice:
    """The advice for what `report` answers. `klds` are measured divergences of its variants.

    With `other_caches` a smaller KV cache is tried too, if something better may come of it. If the pick is poor,
    smaller models of the same series are tried.
    """
    found = advise(report.model, _all_candidates(report, variants, devices, options, klds, model, other_caches))
    if not found.is_poor:
        return found
    alone = replace(options, draft="")  # a draft of this model may not go with another one
    for relative in smaller_relatives(report.model)[:MOST_RELATIVES]:
        other = fit(relative, (), devices, alone)
        smaller = advise(relative, _all_candidates(other, (), devices, alone, {}, relative, other_caches))
        if smaller.runs_well:
            return replace(found, other_model=smaller.pick)
    return found


def _all_candidates(
    report: FitReport,
    variants: Sequence[str],
    devices: Sequence[Device],
    options: FitOptions,
    klds: Mapping[str, MeasuredKld],
    model: str,
    other_caches: bool,
) -> list[Candidate]:
    found = candidates(report, klds)
    first = advise(report.model, found)
    if not other_caches or first.is_simple or not any(row.figures["kv"].bytes for row in report.rows):
        return found
    smaller = replace(options, context=report.context, kv_type_k=SMALLER_CACHE, kv_type_v=SMALLER_CACHE)
    names = variants or [one.row.variant for one in found if one.kld is not None]
    return [*found, *candidates(fit(model, names, devices, smaller), klds)]
