"""Which variant to run: the smallest one that fits and loses nothing significant, with the reasons in plain sentences.

A variant qualifies if it fits the memory limit, has no significant loss on any task (two-sided exact McNemar test,
Holm-corrected over every variant and task of the sweep; only losses count), and has a mean KL divergence below a
threshold. Tasks alone are not enough: 200 to 400 items rarely separate neighbouring quants, but the divergence does.

"No significant loss" does not prove that there is no loss. Therefore the text also says how large a loss the items
cannot rule out, whether all tasks together show a loss, whether a divergence is within its own error of the threshold,
and whether the next smaller variant is distinguishable from the recommended one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep import format as fmt
from sweep.analysis import figures, pareto_sets
from sweep.record import Record
from sweep.statistics import HALF_INTERVAL

# Nats per token. On text that the reference itself would write, a divergence of 0.02 raises the perplexity by
# exp(0.02) - 1 = 2 %. In a published sweep of Qwen3.5-35B-A3B (BF16 perplexity 6.534) this threshold lies between the
# 4-bit and the 3-bit mixes: UD-Q4_K_XL 0.0137 (perplexity +0.9 %), UD-Q3_K_XL 0.0308 (+2.9 %), UD-Q2_K_XL 0.0970
# (+7.8 %).
KLD_THRESHOLD = 0.02


@dataclass(frozen=True)
class Recommendation:
    """The variant to run, or None, and why, in `sentence` (several sentences).

    `reasons` maps every variant to what disqualifies it; the tuple is empty if the variant qualifies. If no variant
    qualifies, `closest` is the one to consider.
    """

    variant: str | None
    sentence: str
    reasons: Mapping[str, tuple[str, ...]]
    closest: str | None = None


def recommend(
    records: Sequence[Record],
    limit_bytes: int | None = None,
    *,
    kld_threshold: float = KLD_THRESHOLD,
    alpha: float = figures.ALPHA,
) -> Recommendation:
    """The smallest variant that fits `limit_bytes` of memory and meets both conditions.

    `kld_threshold` is in nats per token, `alpha` the level of the tests. A condition that no variant was measured for
    is left out, and the text says so. A variant without a figure that other variants have does not qualify. The
    reference is a candidate too: it loses nothing, and its divergence is 0.
    """
    tests = figures.task_tests(records)
    any_kld = any(figures.kld(record) is not None and record.variant != record.reference for record in records)
    if not tests and not any_kld:
        sentence = "No recommendation: no variant was compared with a reference, neither by KL divergence nor by task."
        return Recommendation(None, sentence, {record.variant: ("was not compared",) for record in records})
    judge = _Judge(records, tests, any_kld, limit_bytes, kld_threshold, alpha)
    reasons = {record.variant: judge.reasons(record) for record in records}
    by_size = sorted((r for r in records if r.file_bytes is not None), key=lambda r: r.file_bytes or 0)
    chosen = next((record for record in by_size if not reasons[record.variant]), None)
    if chosen is not None:
        smaller = [record for record in by_size if (record.file_bytes or 0) < (chosen.file_bytes or 0)]
        text = judge.explain_choice(chosen, smaller[-1] if smaller else None)
        return Recommendation(chosen.variant, text, reasons)
    closest = judge.closest(by_size)
    return Recommendation(None, judge.explain_none(closest), reasons, None if closest is None else closest.variant)


@dataclass(frozen=True)
class _Judge:
    """Checks variants against the conditions. `any_kld`: a variant other than its reference has a KL divergence."""

    records: Sequence[Record]
    tests: Mapping[tuple[str, str], figures.TaskTest]
    any_kld: bool
    limit_bytes: int | None
    kld_threshold: float
    alpha: float

    def reasons(self, record: Record) -> tuple[str, ...]:
        """What disqualifies a variant, as predicates ("has no file size"); empty if it qualifies."""
        if record.status in fmt.UNMEASURED:
            words = {"failed": f"failed ({_error(record)})", "skipped": f"was skipped: {_error(record)}"}
            return (words.get(record.status, "is not measured yet"),)
        found = [] if record.file_bytes is not None else ["has no file size"]
        found += self._does_not_fit(record)
        if not figures.is_reference(record, self.records):
            found += self._significant_losses(record) + self._divergence_too_high(record)
        return tuple(found)

    def _does_not_fit(self, record: Record) -> list[str]:
        if self.limit_bytes is None:
            return []
        need = figures.memory(record)
        if need is None:
            return ["has no memory figure to compare with the limit"]
        if need[0] <= self.limit_bytes:
            return []
        limit = fmt.size(self.limit_bytes)
        return [f"needs {fmt.size(need[0])} of memory ({need[1]}), more than the limit of {limit}"]

    def _significant_losses(self, record: Record) -> list[str]:
        if self._is_task_reference(record):
            return []
        tasks = dict.fromkeys(task for _, task in self.tests)
        own = [test for task in tasks if (test := self.tests.get((record.variant, task))) is not None]
        missing = [fmt.plain(task) for task in tasks if (record.variant, task) not in self.tests]
        losses = [
            f"loses {self._difference(test)} on {fmt.plain(test.task)} ({_corrected_p(test)})"
            for test in sorted(own, key=lambda test: test.adjusted)
            if test.is_loss(self.alpha)
        ]
        return losses + ([f"was not compared on {', '.join(missing)}"] if missing else [])

    def _is_task_reference(self, record: Record) -> bool:
        """Whether the task scores of other variants are compared with this variant's."""
        return record.variant in figures.task_references(self.records)

    def _divergence_too_high(self, record: Record) -> list[str]:
        if not self.any_kld:
            return []
        kld = figures.kld(record)
        if kld is None:
            return ["has no KL divergence"]
        if kld.value < self.kld_threshold:
            return []
        near = f", although its 95 % interval contains {self.kld_threshold:g}" if self._is_near_threshold(kld) else ""
        return [f"has a mean KL divergence of {_nats(kld)}, not under {self.kld_threshold:g}{near}"]

    def _is_near_threshold(self, kld: figures.Figure) -> bool:
        """Whether the 95 % interval contains the threshold: the side that the variant is on is not certain then."""
        return kld.stderr is not None and abs(kld.value - self.kld_threshold) < HALF_INTERVAL * kld.stderr

    def explain_choice(self, record: Record, next_smaller: Record | None) -> str:
        """Why this variant, by how much it meets the conditions, and why the next smaller variant does not."""
        if figures.is_reference(record, self.records):
            text = f"Run {_named(record)}, the reference: no smaller variant meets {self._conditions()}."
        else:
            need = figures.memory(record)
            limit = f" that fits in {fmt.size(self.limit_bytes)}" if self.limit_bytes is not None else ""
            text = f"Run {_named(record)}: it is the smallest variant{limit} with {self._met(record)}."
            if self.limit_bytes is not None and need is not None:
                text += f" It needs {fmt.size(need[0])} of memory ({need[1]})."
            text += self._not_measured() + self._kld_of_choice(record)
            text += self._nearest_loss(record) + self._loss_over_all_tasks(record)
        if next_smaller is None:
            return f"{text} No smaller variant was in the sweep."
        text += f" The next smaller variant, {_named(next_smaller)}, {_joined(self.reasons(next_smaller))}."
        return text + self._indistinguishable(record, next_smaller)

    def explain_none(self, closest: Record | None) -> str:
        """Why no variant qualifies, and what the closest one lacks."""
        if closest is None:
            return "No variant qualifies: each lacks a file or the measurements to judge it by."
        within = f" within {fmt.size(self.limit_bytes)}" if self.limit_bytes is not None else ""
        text = f"No variant{within} meets {self._conditions()}.{self._not_measured()}"
        return f"{text} The closest is {_named(closest)}: it {_joined(self.reasons(closest))}."

    def closest(self, candidates: Sequence[Record]) -> Record | None:
        """The variant with the fewest reasons, then the lowest divergence, among those that fit.

        If none fits, it is the variant that needs the least memory.
        """
        measured = [record for record in candidates if record.status not in fmt.UNMEASURED]
        fitting = [record for record in measured if not self._does_not_fit(record)]
        if not fitting:
            needs = [(need[0], i) for i, record in enumerate(measured) if (need := figures.memory(record))]
            return measured[min(needs)[1]] if needs else next(iter(measured), None)

        def distance(record: Record) -> tuple[int, float]:
            kld = figures.kld(record)
            return len(self.reasons(record)), float("inf") if kld is None else kld.value

        return min(fitting, key=distance)

    def _conditions(self) -> str:
        """The conditions, after "meets"."""
        tasks = f"no significant loss on any task at level {self.alpha:g}, Holm-corrected" if self.tests else ""
        kld = f"a mean KL divergence under {self.kld_threshold:g} nats per token" if self.any_kld else ""
        parts = [part for part in (tasks, kld) if part]
        return f"the condition{'s' if len(parts) > 1 else ''} ({'; '.join(parts)})"

    def _met(self, record: Record) -> str:
        """The conditions as the chosen variant meets them, after "with"."""
        parts = []
        if self.tests and self._is_task_reference(record):
            parts.append("no loss on any task, because task scores are compared with its own")
        elif self.tests:
            own = self._own_tests(record)
            significant = "significant " if any(test.worse for test in own) else ""
            count = "the only task" if len(own) == 1 else f"any of {len(own)} tasks"
            parts.append(f"no {significant}loss on {count}")
        if self.any_kld and figures.kld(record) is not None:
            parts.append(f"a mean KL divergence under {self.kld_threshold:g} nats per token")
        return " and ".join(parts)

    def _kld_of_choice(self, record: Record) -> str:
        kld = figures.kld(record)
        if not self.any_kld or kld is None:
            return ""
        near = f"; its 95 % interval contains {self.kld_threshold:g}" if self._is_near_threshold(kld) else ""
        return f" Its mean KL divergence is {_nats(kld)}{near}."

    def _own_tests(self, record: Record) -> list[figures.TaskTest]:
        return [test for (variant, _), test in self.tests.items() if variant == record.variant]

    def _nearest_loss(self, record: Record) -> str:
        """The loss that is nearest to significance, and how large a loss the items cannot rule out."""
        own = self._own_tests(record)
        losses = [test for test in own if test.worse]
        if self._is_task_reference(record) or not losses:
            return ""
        nearest = min(losses, key=lambda test: (test.adjusted, test.p_value))
        return (
            f" The loss nearest to significance is {self._difference(nearest)} on {fmt.plain(nearest.task)} "
            f"({_corrected_p(nearest)}, not under {self.alpha:g}).{self._not_ruled_out(own)}"
        )

    def _not_ruled_out(self, tests: Sequence[figures.TaskTest]) -> str:
        """The largest loss that is inside a 95 % interval, among the tasks whose scores are shares."""
        scales = figures.task_scales(self.records)
        ends = [
            (end, test.task)
            for test in tests
            if scales[test.task] == 100 and test.interval is not None
            for end in [test.interval[1] if test.lower_is_better else -test.interval[0]]
        ]
        if not ends or max(ends)[0] <= 0.0:
            return ""
        end, task = max(ends)
        return f" A loss of up to {100 * end:.1f} points on {fmt.plain(task)} cannot be ruled out (95 % interval)."

    def _loss_over_all_tasks(self, record: Record) -> str:
        """A loss that no task shows alone, but all tasks show together."""
        (losses,) = pareto_sets.recovery_losses(self.records)
        base = figures.task_reference_of(record)
        lead = None if base is None else losses.lead(base, record.variant)
        if lead is None or lead.low <= 0.0 or len(figures.task_names(self.records)) < 2:
            return ""
        lost, error = 100 * lead.delta, 100 * lead.stderr
        return (
            f" Over all tasks together it does lose {lost:.1f} ± {error:.1f} % of the reference's score above chance: "
            "the 95 % interval does not contain 0."
        )

    def _indistinguishable(self, record: Record, smaller: Record) -> str:
        """A sentence if no measure distinguishes the two, even if only one of them differs from the reference."""
        if record.reference != smaller.reference:
            return ""
        measures = [*pareto_sets.kld_losses(self.records), *pareto_sets.perplexity_losses(self.records)]
        for task in figures.task_names(self.records):
            measures += pareto_sets.task_losses(self.records, task)
        leads = [lead for losses in measures if (lead := losses.lead(record.variant, smaller.variant)) is not None]
        if not leads or any(lead.significant for lead in leads):
            return ""
        return " Compared with each other, the two variants are indistinguishable by all of these measures."

    def _difference(self, test: figures.TaskTest) -> str:
        """A difference without its sign, in the unit of the tables: percentage points, or the metric's own unit."""
        scale = figures.task_scales(self.records)[test.task]
        decimals, unit = (1, " points") if scale == 100 else (3, "")
        error = "" if test.delta_stderr is None else f" ± {test.delta_stderr * scale:.{decimals}f}"
        return f"{abs(test.delta) * scale:.{decimals}f}{error}{unit}"

    def _not_measured(self) -> str:
        if not self.tests:
            return " No task was compared."
        return "" if self.any_kld else " KL divergence was not measured."


def _named(record: Record) -> str:
    bits = figures.finite(record.bits_per_weight)
    extra = f", {bits:.2f} bits per weight" if bits is not None else ""
    return f"{fmt.plain(record.variant)} ({fmt.size(record.file_bytes)}{extra})"


def _nats(kld: figures.Figure) -> str:
    if kld.stderr is None:
        return f"{fmt.small(kld.value)} nats"
    decimals = fmt.decimals_for([kld.value, kld.stderr], most=6)
    return f"{fmt.fixed(kld.value, decimals)} ± {kld.stderr:.{decimals}f} nats"


def _corrected_p(test: figures.TaskTest) -> str:
    return f"Holm-corrected p {fmt.p_relation(test.adjusted)}"


def _error(record: Record) -> str:
    return fmt.shorten(fmt.plain(record.error or "no message"), 120)


def _joined(reasons: Sequence[str]) -> str:
    return " and ".join(reasons) if len(reasons) < 3 else f"{'; '.join(reasons[:-1])}; and {reasons[-1]}"
