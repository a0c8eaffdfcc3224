"""`sweep fit`: computes which variants of a model fit on which devices, and which of them to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from converters.catalogue import smaller_relatives
from converters.resolver import names_repository
from sweep.analysis.advice import MUCH_LESS, Advice, advise, is_adequate
from sweep.analysis.candidate import Candidate
from sweep.analysis.fit_candidates import Measurements, fit_candidates
from sweep.execution.local import LocalHost
from sweep.fit.fit_report import GGUF, FitOptions, FitReport
from sweep.fit.hardware import Device
from sweep.planning import fit as planning_fit
from sweep.target import NO_TARGET, Target

SMALLER_CACHE = "q8_0"
"""The type of KV cache that the advice may choose besides f16."""
MOST_RELATIVES = 3  # how many smaller models are tried


def fit(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """See planning.fit.fit."""
    with LocalHost() as host:
        return planning_fit.fit(model, variants, devices, options, host.run_job)


@dataclass(frozen=True)
class FitQuestion:
    """What `sweep fit` is asked. `any_cache`: the advice may choose another type of KV cache than `options` has.
    `target`: what the variant to run has to reach."""

    model: str
    variants: Sequence[str]  # empty: every variant of the model
    devices: Sequence[Device]
    options: FitOptions
    any_cache: bool = True
    target: Target = NO_TARGET

    def answer(self) -> FitReport:
        """The fit report."""
        return fit(self.model, self.variants, self.devices, self.options)


def advise_on(question: FitQuestion, report: FitReport, measured: Measurements) -> Advice:
    """The advice for a question that `report` answers. `measured` is what runs of the model measured.

    A smaller KV cache is tried too, if something better may come of it. If the pick is poor, smaller models of the same
    series are tried. With a target, shorter contexts and smaller models are tried only if nothing satisfies it.
    """
    target = question.target
    found = advise(report.model, _all_candidates(question, report, measured), target)
    if target and found.pick is not None:
        return found
    if not found.is_simple:
        found = replace(found, shorter=_with_shorter_context(question, report, measured, in_ram=False))
    if not found.is_poor:
        return found
    if found.shorter is None:
        shorter = _with_shorter_context(question, report, measured, in_ram=True)
        if shorter is not None and (found.pick is None or shorter.loss < MUCH_LESS * found.pick.loss):
            found = replace(found, shorter=shorter)
    alone = replace(question.options, draft="")  # a draft of this model may not go with another one
    for relative in smaller_relatives(report.model)[:MOST_RELATIVES]:
        other = replace(question, model=relative, variants=(), options=alone)
        smaller = advise(relative, _all_candidates(other, other.answer(), Measurements()), target)
        if smaller.runs_well or (target and smaller.pick is not None):
            return replace(found, other_model=smaller.pick)
    return found


def _with_shorter_context(
    question: FitQuestion, report: FitReport, measured: Measurements, in_ram: bool
) -> Candidate | None:
    """The candidate with the longest context of those that lose little and run with a context that is at least a
    quarter of the requested one: on the GPUs alone, or with `in_ram` partly in RAM."""
    usable = {one.variant for one in fit_candidates(report, measured, question.model) if is_adequate(one)}
    rows = [row for row in report.rows if row.variant in usable]
    longest = {row.variant: (row.max_context_with_ram if in_ram else row.max_context) or 0 for row in rows}
    contexts = {name: context for name, context in longest.items() if report.context / 4 <= context < report.context}
    if not contexts or not any(device.kind != "cpu" for device in report.devices):
        return None
    name = max(contexts, key=lambda name: contexts[name])
    options = replace(question.options, context=contexts[name])
    shorter = advise(report.model, _candidates_with(question, (name,), options, measured), question.target)
    return shorter.pick if shorter.is_simple or in_ram or question.target else None


def _all_candidates(question: FitQuestion, report: FitReport, measured: Measurements) -> list[Candidate]:
    found = fit_candidates(report, measured, question.model)
    has_cache = any(row.figures["kv"].bytes for row in report.rows)
    possible = question.any_cache and question.options.flash_attention is not False  # which a quantized cache needs
    if not possible or not has_cache or (not question.target and advise(report.model, found).is_simple):
        return found
    with_type = [row.variant for row in report.rows if row.kind == GGUF]  # others have a cache of their own
    names = [one.variant for one in found if one.variant in with_type and (question.variants or one.kld is not None)]
    if not names:
        return found
    smaller = replace(question.options, context=report.context, kv_type_k=SMALLER_CACHE, kv_type_v=SMALLER_CACHE)
    return [*found, *_candidates_with(question, names, smaller, measured)]


def _candidates_with(
    question: FitQuestion, names: Sequence[str], options: FitOptions, measured: Measurements
) -> list[Candidate]:
    """The candidates with these names, with other options. The name of a file of several repositories, such as
    hub:OWNER/Q4_K_M, means something only if all variants of the question are asked for."""
    ambiguous = any(map(names_repository, names))
    asked = replace(question, variants=question.variants if ambiguous else names, options=options)
    return [one for one in fit_candidates(asked.answer(), measured, question.model) if one.variant in names]
