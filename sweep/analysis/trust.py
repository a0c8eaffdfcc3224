"""Notes for readers who compare figures: which figures to trust, and which differences are too small to matter.

A note is given only if the records support it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sweep import format as fmt
from sweep.analysis import figures, pareto_sets
from sweep.record import Record, Stopping


def trust_notes(records: Sequence[Record]) -> list[str]:
    """Zero or more notes, the most important first."""
    notes = [
        _implausible(records),
        _worse_than_rounding(records),
        _unstable(records),
        _stopped(records),
        _perplexity(records),
        *_noise(records),
        _sharing(records),
        _references(records),
        _task_base(records),
    ]
    return [note for note in notes if note]


def _implausible(records: Sequence[Record]) -> str:
    """A note on figures that quantization does not usually explain, with the likely causes."""
    found = [
        f"{fmt.plain(record.variant)}: {', and '.join(record.implausible)}" for record in records if record.implausible
    ]
    if not found:
        return ""
    return (
        f"{fmt.IMPLAUSIBLE} Implausible figures, which quantization to so many bits does not usually explain: "
        f"{'; '.join(found)}. Likely causes: another tokenizer than the reference's, a reference of another model or "
        "text, a damaged file, a model that the engine computes wrongly, or a type for ternary weights (TQ1_0, TQ2_0) "
        "on other weights."
    )


def _worse_than_rounding(records: Sequence[Record]) -> str:
    """A note on methods that lose more than rounding to the nearest value does."""
    found = [
        f"{fmt.plain(record.variant)} (KL divergence {fmt.small(own)}, {fmt.plain(plain.variant)} {fmt.small(other)})"
        for record in records
        for plain in records
        if plain.variant == record.worse_than_rounding
        if (own := _kld(record)) is not None and (other := _kld(plain)) is not None
    ]
    if not found:
        return ""
    return (
        f"Worse than plain rounding: {_listed(found)}. The 95 % intervals of the differences, paired by window, "
        "exclude 0. Do not use these variants: rounding to the nearest value with the same bits and groups loses less, "
        "and needs no calibration."
    )


def _unstable(records: Sequence[Record]) -> str:
    """A note on speeds that cannot be relied on, with the reasons."""
    found = [
        f"{fmt.plain(record.variant)}{' (measured twice)' if record.speed.measurements > 1 else ''}: "
        f"{', and '.join(record.speed.unstable_reasons)}"
        for record in records
        if record.speed is not None and record.speed.unstable
    ]
    if not found:
        return ""
    return (
        f"{fmt.UNSTABLE} Unstable speeds, on which no advice is based: {'; '.join(found)}. Likely cause: other "
        "programs ran while the speed was measured."
    )


def _stopped(records: Sequence[Record]) -> str:
    """A note on texts and tasks of which a part was measured, with the reasons."""
    parts: dict[str, dict[str, list[tuple[Stopping, str]]]] = {}  # by what was measured, and by reason
    for record in records:
        for name, part in record.stopping.items():
            reasons = parts.setdefault(_measured_in_part(name, record), {})
            reasons.setdefault(part.stopped or "not finished", []).append((part, fmt.plain(record.variant)))
    if not parts:
        return ""
    lines = [
        f"{what}: {'; '.join(_amount(found, reason) for reason, found in reasons.items())}."
        for what, reasons in parts.items()
    ]
    return (
        f"Windows of texts and items of tasks were measured in random order, until enough was known. {' '.join(lines)} "
        "`--precision full` measures all of them."
    )


def _measured_in_part(cell: str, record: Record) -> str:
    if cell in record.tasks:
        return f"Items of {fmt.plain(cell)}"
    return "Windows of the text" if cell == "text" else f"Windows of {fmt.plain(cell.removeprefix('text '))}"


def _amount(found: Sequence[tuple[Stopping, str]], reason: str) -> str:
    """Such as `64 to 128 of 592: under 0.02 nats (Q2_K, Q3_K_M)`."""
    least, most = min(part.samples for part, _ in found), max(part.samples for part, _ in found)
    amount = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    names = ", ".join(name for _, name in found)
    return f"{amount} of {max(part.of for part, _ in found):,}: {reason} ({names})"


def _groups(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Each reference and the variants that are compared with it, from the smallest up."""
    return [
        (name, [r for r in figures.by_size(records) if r.reference == name and r.variant != name])
        for name in sorted(figures.reference_names(records))
    ]


def _perplexity(records: Sequence[Record]) -> str:
    """A note if perplexity rises from one variant to the next larger one although the divergence does not.

    Perplexity cannot rank variants then, but the divergence can.
    """
    for name, group in _groups(records):
        base = [record for record in records if record.variant == name]
        steps = [
            (record, value.value, divergence)
            for record in [*group, *base]
            if (value := figures.perplexity(record)) is not None and record.bits_per_weight is not None
            if (divergence := 0.0 if record.variant == name else _kld(record)) is not None
        ]
        # if the divergence rises too, the larger variant is really worse, and perplexity is right
        rises = [(small, large) for small, large in pairwise(steps) if large[1] > small[1] and large[2] <= small[2]]
        if not rises:
            continue
        (small, low, _), (large, high, _) = max(rises, key=lambda pair: pair[1][1] - pair[0][1])
        falls = all(later[2] < earlier[2] for earlier, later in pairwise(steps))
        why = "falls from each variant to the next larger one" if falls else "compares every token with the reference"
        decimals = fmt.decimals_for([high - low], figures=1, least=4)
        return (
            f"Trust KL divergence rather than perplexity. KL divergence {why}, but perplexity rises from "
            f"{fmt.plain(small.variant)} ({low:.{decimals}f}) to the larger {fmt.plain(large.variant)} "
            f"({high:.{decimals}f}){_rise(records, small, large)}."
        )
    return ""


def _rise(records: Sequence[Record], small: Record, large: Record) -> str:
    """Whether the rise is more than the error of the paired difference, if that is known."""
    (losses,) = pareto_sets.perplexity_losses(records)
    lead = losses.lead(small.variant, large.variant)
    if lead is None:
        return ""
    return (
        ", by more than the error of their difference" if lead.significant else ", within the error of their difference"
    )


def _kld(record: Record) -> float | None:
    found = figures.kld(record)
    return None if found is None else found.value


def noise_floor(records: Sequence[Record], reference: str) -> float | None:
    """The largest noise floor recorded for this reference, in nats per token; None if there is none."""
    floors = [
        floor
        for record in records
        if (record.reference == reference or record.variant == reference) and record.divergence is not None
        if (floor := figures.finite(record.divergence.noise_floor)) is not None
    ]
    return max(floors, default=None)


def _noise(records: Sequence[Record]) -> list[str]:
    notes = []
    for name, group in _groups(records):
        floor = noise_floor(records, name)
        if floor is None:
            continue
        within = [fmt.plain(r.variant) for r in group if (found := _kld(r)) is not None and found <= floor]
        verdict = f"Not above it: {_listed(within)}." if within else "Every variant is above it."
        notes.append(
            f"The noise floor of {fmt.plain(name)} is {fmt.small(floor)} nats: its KL divergence from itself when it "
            f"is computed with another batch shape. {verdict}"
        )
    return notes


def _sharing(records: Sequence[Record]) -> str:
    """How much the scores of choices depend on which questions are scored together: the worst case of the run."""
    found = [
        (score.sharing_difference, score.sharing_questions, score.sharing_changed or 0, record.variant, task)
        for record in records
        for task, score in record.tasks.items()
        if score.sharing_difference is not None and score.sharing_questions is not None
    ]
    if not found:
        return ""
    questions, changed = sum(entry[1] for entry in found), sum(entry[2] for entry in found)
    worst, *_, variant, task = max(found)
    answers = "no answer changed" if not changed else f"{changed} answer{'s' if changed > 1 else ''} changed"
    return (
        f"A prefix that questions share is computed once. As a check, {questions:,} sampled questions were also scored "
        f"alone: {answers}, and log-likelihoods changed by at most {fmt.small(worst)} nats "
        f"({fmt.plain(task)} of {fmt.plain(variant)})."
    )


def _references(records: Sequence[Record]) -> str:
    groups = [(name, group) for name, group in _groups(records) if group]
    if len(groups) < 2:
        return ""
    groups.sort(key=lambda group: len(group[1]))  # name the variants of the small groups only
    parts = [f"{fmt.plain(name)} for {_listed([fmt.plain(r.variant) for r in group])}" for name, group in groups[:-1]]
    return (
        f"There are {len(groups)} references: {'; '.join(parts)}; {fmt.plain(groups[-1][0])} for the other variants. "
        "KL divergences from different references cannot be compared: each variant is judged against its own reference."
    )


def _task_base(records: Sequence[Record]) -> str:
    """What task scores are compared with if the reference is a file."""
    bases = {(r.task_reference, r.reference) for r in records if r.task_reference not in (None, r.reference)}
    if not bases:
        return ""
    base, reference = bases.pop()  # a run has only one
    bits = {r.variant: r.bits_per_weight for r in records if r.bits_per_weight is not None}
    most = max(bits, key=bits.__getitem__, default=None)
    why = "has the most bits per weight" if base == most else "is the variant that the file was made from"
    return (
        f"{fmt.plain(reference)} is a file of probabilities and cannot answer tasks. Task scores are compared with "
        f"those of {fmt.plain(base)}, which {why}."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
