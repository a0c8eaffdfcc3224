"""Which variant to run, in a sentence that prints the conditions it was chosen by and why the next smaller one fails.

The choice is the smallest file that fits, loses nothing significant on any task (two-sided exact McNemar,
Holm-corrected over every variant and task of the sweep; only losses count) and whose mean KL divergence is under a
threshold. The tasks alone would not do: 200-400 items rarely separate neighbouring quants, while the divergence does.

What is not shown to be a loss is not shown to be none, so the sentence says how large a loss the items would still
allow, whether the tasks taken together show one, whether a divergence is nearer to the threshold than its own error,
and whether the variant passed over can be told from the one chosen at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep import format as fmt
from sweep.analysis import figures, fronts
from sweep.record import Record
from sweep.statistics import HALF_INTERVAL

# Nats per token. On text the reference itself would write, a divergence of 0.02 is a perplexity exp(0.02) = 2 % higher.
# A published sweep of Qwen3.5-35B-A3B (BF16 perplexity 6.534) puts the line between its 4-bit and 3-bit mixes:
# UD-Q4_K_XL 0.0137 (perplexity +0.9 %), UD-Q3_K_XL 0.0308 (+2.9 %), UD-Q2_K_XL 0.0970 (+7.8 %).
KLD_THRESHOLD = 0.02


@dataclass(frozen=True)
class Recommendation:
    """The variant to run, or None. `reasons` holds for every variant what disqualified it: nothing if it qualifies.

    `closest` is the variant to look at where none qualifies.
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

    A condition nobody in the sweep was measured for is left out and the sentence says so; a variant that lacks what
    others have does not qualify. The reference is a candidate like any other: it loses nothing and diverges by 0.
    """
    tests = figures.task_tests(records)
    compared = any(figures.kld(record) is not None and record.variant != record.reference for record in records)
    if not tests and not compared:
        sentence = "No recommendation: no variant was compared with a reference, neither by KL divergence nor by task."
        return Recommendation(None, sentence, {record.variant: ("was not compared",) for record in records})
    judge = _Judge(records, tests, compared, limit_bytes, kld_threshold, alpha)
    reasons = {record.variant: judge.reasons(record) for record in records}
    candidates = sorted((r for r in records if r.file_bytes is not None), key=lambda r: r.file_bytes or 0)
    chosen = next((i for i, record in enumerate(candidates) if not reasons[record.variant]), None)
    if chosen is not None:
        record = candidates[chosen]
        smaller = [other for other in candidates[:chosen] if (other.file_bytes or 0) < (record.file_bytes or 0)]
        return Recommendation(record.variant, judge.praise(record, smaller[-1] if smaller else None), reasons)
    closest = judge.closest(candidates)
    return Recommendation(None, judge.regret(closest), reasons, None if closest is None else closest.variant)


@dataclass(frozen=True)
class _Judge:
    records: Sequence[Record]
    tests: Mapping[tuple[str, str], figures.TaskTest]
    compared: bool
    limit: int | None
    threshold: float
    alpha: float

    def reasons(self, record: Record) -> tuple[str, ...]:
        if record.status in fmt.UNMEASURED:
            told = {"failed": f"failed ({_error(record)})", "skipped": f"was skipped: {_error(record)}"}
            return (told.get(record.status, "is not measured yet"),)
        found = [] if record.file_bytes is not None else ["has no file size"]
        found += self._misfit(record)
        if not figures.is_reference(record, self.records):
            found += self._losses(record) + self._divergence(record)
        return tuple(found)

    def _misfit(self, record: Record) -> list[str]:
        if self.limit is None:
            return []
        need = figures.memory(record)
        if need is None:
            return ["has no memory figure to compare with the limit"]
        if need[0] <= self.limit:
            return []
        return [f"needs {fmt.size(need[0])} of memory ({need[1]}), over the limit of {fmt.size(self.limit)}"]

    def _losses(self, record: Record) -> list[str]:
        if self._is_base(record):
            return []
        expected = dict.fromkeys(task for _, task in self.tests)
        own = [test for task in expected if (test := self.tests.get((record.variant, task))) is not None]
        missing = [fmt.plain(task) for task in expected if (record.variant, task) not in self.tests]
        lost = [
            f"loses {self._size(test)} on {fmt.plain(test.task)} (Holm-corrected p {fmt.equals(test.adjusted)})"
            for test in sorted(own, key=lambda test: test.adjusted)
            if test.loss(self.alpha)
        ]
        return lost + ([f"was not compared on {', '.join(missing)}"] if missing else [])

    def _is_base(self, record: Record) -> bool:
        """Whether it is what the tasks of the others are compared with."""
        return record.variant in figures.task_bases(self.records)

    def _divergence(self, record: Record) -> list[str]:
        if not self.compared:
            return []
        found = figures.kld(record)
        if found is None:
            return ["has no KL divergence"]
        if found.value < self.threshold:
            return []
        return [f"has a mean KL divergence of {_nats(found)}, not under {self.threshold:g}{self._close(found)}"]

    def _close(self, found: figures.Figure) -> str:
        """Where the threshold is within the error: on which side of it the variant belongs is not certain."""
        near = found.stderr is not None and abs(found.value - self.threshold) < HALF_INTERVAL * found.stderr
        return ", though within its error of that" if near else ""

    def praise(self, record: Record, smaller: Record | None) -> str:
        need = figures.memory(record)
        if figures.is_reference(record, self.records):
            head = f"Run {_named(record)}, the reference itself: no smaller variant {self._conditions()}."
        else:
            fits = (
                f" that fits {fmt.size(self.limit)} (needs {fmt.size(need[0])}, {need[1]})"
                if self.limit is not None and need
                else ""
            )
            parts = [part for part in (self._kept(record), self._near(record)) if part]
            head = f"Run {_named(record)}: the smallest variant{fits} with {' and '.join(parts)}.{self._unmeasured()}"
            head += self._together(record)
        if smaller is None:
            return f"{head} No smaller variant was in the sweep."
        told = self._told_apart(record, smaller)
        return f"{head} The next smaller one, {_named(smaller)}, {_joined(self.reasons(smaller))}.{told}"

    def _together(self, record: Record) -> str:
        """A loss that no task shows alone and all of them show together."""
        (losses,) = fronts.recovery_losses(self.records)
        base = figures.task_base(record)
        lead = None if base is None else losses.lead(base, record.variant)
        if lead is None or lead.low <= 0.0 or len(figures.task_names(self.records)) < 2:
            return ""
        lost, error = 100 * lead.delta, 100 * lead.stderr
        return (
            f" Over all tasks together it does lose, {lost:.1f} ± {error:.1f} % of the reference's score above chance, "
            "more than the error."
        )

    def _told_apart(self, record: Record, smaller: Record) -> str:
        """Said where no measure tells the two from each other, whatever each is against the reference."""
        if record.reference != smaller.reference:
            return ""
        measures = [*fronts.kld_losses(self.records), *fronts.perplexity_losses(self.records)]
        for task in figures.task_names(self.records):
            measures += fronts.task_losses(self.records, task)
        leads = [lead for losses in measures if (lead := losses.lead(record.variant, smaller.variant)) is not None]
        if not leads or any(lead.real for lead in leads):
            return ""
        return " Beside each other the two are not distinguishable by any of these measures."

    def regret(self, closest: Record | None) -> str:
        if closest is None:
            return "No variant qualifies: none has both a file and the measurements to judge it by."
        where = f" within {fmt.size(self.limit)}" if self.limit is not None else ""
        head = f"No variant{where} {self._conditions()}.{self._unmeasured()}"
        return f"{head} The closest is {_named(closest)}: it {_joined(self.reasons(closest))}."

    def closest(self, candidates: Sequence[Record]) -> Record | None:
        """Of those that fit (else of all, the one that needs least): fewest reasons, then least divergence."""
        measured = [record for record in candidates if record.status not in fmt.UNMEASURED]
        fitting = [record for record in measured if not self._misfit(record)]
        if not fitting:
            needs = [(need[0], i) for i, record in enumerate(measured) if (need := figures.memory(record))]
            return measured[min(needs)[1]] if needs else next(iter(measured), None)

        def distance(record: Record) -> tuple[int, float]:
            found = figures.kld(record)
            return len(self.reasons(record)), float("inf") if found is None else found.value

        return min(fitting, key=distance)

    def _conditions(self) -> str:
        tasks = f"keeps every task (no significant loss, Holm-corrected at {self.alpha:g})" if self.tests else ""
        near = f"stays under a mean KL divergence of {self.threshold:g} nats" if self.compared else ""
        return " and ".join(part for part in (tasks, near) if part)

    def _kept(self, record: Record) -> str:
        if not self.tests:
            return ""
        if self._is_base(record):
            return "no loss on any task, for the others' are compared with its own"
        own = [test for (variant, _), test in self.tests.items() if variant == record.variant]
        lost = [test for test in own if test.worse]
        count = "the one task" if len(own) == 1 else f"any of {len(own)} tasks"
        if not lost:
            return f"no loss on {count}"
        worst = min(lost, key=lambda test: (test.adjusted, test.p_value))
        return (
            f"no significant loss on {count} (nearest to one: {self._size(worst)} on {fmt.plain(worst.task)}, "
            f"Holm-corrected p {fmt.equals(worst.adjusted)}, not under {self.alpha:g}{self._allowed(own)})"
        )

    def _allowed(self, tests: Sequence[figures.TaskTest]) -> str:
        """The largest loss that a 95 % interval still holds, of those that are shares."""
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
        return f"; up to {100 * end:.1f} on {fmt.plain(task)} are not ruled out"

    def _size(self, test: figures.TaskTest) -> str:
        """A difference without its sign, in the unit the tables print: points of a percentage, or the metric's own."""
        scale = figures.task_scales(self.records)[test.task]
        decimals, unit = (1, " points") if scale == 100 else (3, "")
        error = "" if test.delta_stderr is None else f" ± {test.delta_stderr * scale:.{decimals}f}"
        return f"{abs(test.delta) * scale:.{decimals}f}{error}{unit}"

    def _near(self, record: Record) -> str:
        found = figures.kld(record)
        if not self.compared or found is None:
            return ""
        return f"a mean KL divergence of {_nats(found)}, under {self.threshold:g}{self._close(found)}"

    def _unmeasured(self) -> str:
        if not self.tests:
            return " No task was compared."
        return "" if self.compared else " KL divergence was not measured."


def _named(record: Record) -> str:
    bits = figures.known(record.bits_per_weight)
    extra = f", {bits:.2f} bits per weight" if bits is not None else ""
    return f"{fmt.plain(record.variant)} ({fmt.size(record.file_bytes)}{extra})"


def _nats(found: figures.Figure) -> str:
    if found.stderr is None:
        return f"{fmt.small(found.value)} nats"
    decimals = fmt.decimals_for([found.value, found.stderr], most=6)
    return f"{fmt.fixed(found.value, decimals)} ± {found.stderr:.{decimals}f} nats"


def _error(record: Record) -> str:
    return fmt.shorten(fmt.plain(record.error or "no message"), 120)


def _joined(reasons: Sequence[str]) -> str:
    return " and ".join(reasons) if len(reasons) < 3 else f"{'; '.join(reasons[:-1])}; and {reasons[-1]}"
