"""The variants of a run as candidates of the advice: what was measured of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from presets.advice import Tolerance
from sweep import format as fmt
from sweep.analysis import figures
from sweep.analysis.advice import Advice, advise
from sweep.analysis.candidate import AdvisedPlacement, Candidate, Commands, TaskEvidence
from sweep.analysis.priors import ExpectedKld, MeasuredKld, measured_kld
from sweep.analysis.task_evidence import not_compared, task_evidence
from sweep.record import Record
from sweep.target import Target


def advise_on_records(
    records: Sequence[Record],
    model: str = "",
    limit_bytes: int | None = None,
    tolerance: Tolerance | None = None,
    commands: Mapping[str, Commands] | None = None,
    target: Target | None = None,
) -> Advice:
    """The advice by what a run measured, for `limit_bytes` of memory.

    A condition that no variant was measured for is left out. A variant without a figure that others have is excluded.
    The reference is a candidate too: it loses nothing, and its divergence is 0.
    """
    return advise(model, run_candidates(records, model, limit_bytes, tolerance, commands), target)


def run_candidates(
    records: Sequence[Record],
    model: str = "",
    limit_bytes: int | None = None,
    tolerance: Tolerance | None = None,
    commands: Mapping[str, Commands] | None = None,
) -> list[Candidate]:
    """The records as candidates, the smallest first."""
    evidence = task_evidence(records, tolerance)
    judge = _Judge(records, limit_bytes, evidence)
    references = figures.reference_names(records) | (set() if _any_kld(records) else figures.task_references(records))
    recovered = figures.mean_recovery(records)
    ordered = sorted(records, key=lambda record: (figures.files_bytes(record) or 0, record.variant))
    found = []
    for record in ordered:
        found.append(
            Candidate(
                model=model,
                variant=record.variant,
                file_bytes=figures.files_bytes(record) or 0,
                kv_type=record.kv_type,
                context=int(record.settings.get("ctx") or 0),
                placement=_placement(record),
                kld=_kld(record, records),
                tokens_per_s=figures.reliable_speed(record),
                speed_is_measured=figures.reliable_speed(record) is not None,
                obstacle=judge.obstacle(record),
                tasks=evidence.get(record.variant),
                recovery=own.value if (own := recovered.get(record.variant)) is not None else None,
                is_reference=record.variant in references,
                cache_is_given=record.kind == "gguf",
                memory_bytes=need[0] if (need := figures.memory(record)) is not None else 0,
                commands=(commands or {}).get(record.variant, Commands()),
            )
        )
    return found


def _placement(record: Record) -> AdvisedPlacement:
    return AdvisedPlacement.RAM if record.device.startswith("cpu") else AdvisedPlacement.GPU


def _kld(record: Record, records: Sequence[Record]) -> ExpectedKld | None:
    if figures.is_reference(record, records):
        return ExpectedKld(0.0, 0.0, 0.0, "measured") if _any_kld(records) else None
    found = figures.largest_kld(record)
    if found is None:
        return None
    worst, tokens = found
    return measured_kld(MeasuredKld(worst.value, worst.stderr or 0.0, record.reference or "", "", tokens))


def _any_kld(records: Sequence[Record]) -> bool:
    """Whether a variant other than its reference has a divergence."""
    return any(figures.kld(record) is not None and record.variant != record.reference for record in records)


@dataclass(frozen=True)
class _Judge:
    """Says why a record cannot be a candidate."""

    records: Sequence[Record]
    limit_bytes: int | None
    evidence: Mapping[str, TaskEvidence]

    def obstacle(self, record: Record) -> str:
        """After the variant's name; empty if there is none."""
        if record.status in fmt.UNMEASURED:
            error = fmt.shorten(fmt.plain(record.error or "no message"), 120)
            words = {"failed": f"failed ({error})", "cancelled": "was cancelled", "skipped": f"was skipped: {error}"}
            return words.get(record.status, "is not measured yet")
        if record.file_bytes is None:
            return "has no file size"
        return self._does_not_fit(record) or self._not_compared(record)

    def _does_not_fit(self, record: Record) -> str:
        if self.limit_bytes is None:
            return ""
        need = figures.memory(record)
        if need is None:
            return "has no memory figure to compare with the limit"
        if need[0] <= self.limit_bytes:
            return ""
        limit = fmt.size(self.limit_bytes)
        return f"does not fit: it needs {fmt.size(need[0])} of memory ({need[1]}), more than the limit of {limit}"

    def _not_compared(self, record: Record) -> str:
        if figures.is_reference(record, self.records):
            return ""
        any_kld = _any_kld(self.records)
        if not any_kld and not self.evidence:
            return "was not compared with a reference, neither by KL divergence nor by task"
        if any_kld and figures.kld(record) is None:
            return "has no KL divergence"
        if record.variant in figures.task_references(self.records):
            return ""
        missing = not_compared(record, figures.task_tests(self.records))
        return f"was not compared on {', '.join(map(fmt.plain, missing))}" if missing else ""
