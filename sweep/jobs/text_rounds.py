"""The job that measures a text in rounds, on windows in random order, until enough is known: of the divergence, or, of
a model that is compared with nothing, of the perplexity.

The reference decodes the windows of each round and writes their distributions. A variant goes through the rounds that
the reference has written, and stops after the first one that meets its rule (see sweep.statistics.stopping). If none
does, its result says how many windows are probably needed, and the run goes on with a job for the reference and one for
the variant. The figures of every position are kept in a file per round, so no window is decoded twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.jobs.base import Site
from sweep.jobs.settings import ComputeResources
from sweep.jobs.text import TextJob, TextResult, part_identity
from sweep.statistics.stopping import FIRST_LOOK, Array, StopRule, looks

if TYPE_CHECKING:
    from sweep.backends.base import Backend
    from sweep.measure.perplexity import Windows
    from sweep.measure.positions import TextPositions
    from sweep.measure.text_results import NoiseFloor


@dataclass(frozen=True)
class TextRoundsResult(TextResult):
    """The figures of the first `windows` of the text's `of_windows` windows, in random order.

    `next_look` is how many windows the measurement has to go on to; None if it is finished. `windows_sha256` is a hash
    of all windows of the text in this order, so of two results with the same hash the shorter one has the first windows
    of the longer one. `text_sha256` is that of all windows in the order of the text, which TextResult has; None in
    results of earlier versions.
    """

    windows: int = 0
    of_windows: int = 0
    next_look: int | None = None
    text_sha256: str | None = None


@dataclass(frozen=True)
class TextRoundsJob(TextJob):
    """Measure a text on at least `at_least` and at most `stop` windows in random order, until `rule` is met. Without a
    rule, which a reference does not have, `stop` windows are measured.

    `reference` and `distributions` are folders with a file of distributions for each round, `positions` is the folder
    for the figures of every position.
    """

    kind = "text_rounds"
    result_type = TextRoundsResult
    procedure = 1

    positions: Artefact | None = None
    rule: StopRule | None = None
    stop: int = FIRST_LOOK
    at_least: int = 0

    def identity(self, resources: ComputeResources) -> Any:
        return {
            "kind": self.kind,
            "procedure": self.procedure,
            **self.model.identity(resources),
            **part_identity(self.windows),
            "text": self.text.identity,
            "reference": self.baseline,
            "rule": None if self.rule is None else asdict(self.rule),
            "stop": self.stop,
            "at_least": self.at_least,
        }

    @property
    def in_full(self) -> TextJob:
        """The job that measures the whole text in its order."""
        return TextJob(self.model, self.text, self.baseline, self.reference, windows=self.windows)

    @property
    def first_round(self) -> Self:
        """The job that the measurement begins with."""
        return replace(self, stop=FIRST_LOOK, at_least=0)

    def output_exists(self, root: Path) -> bool:
        """Whether the distributions of the last round exist: a round is begun when those before it are written."""
        folder = None if self.output is None else self.output.under(root)
        start = 0 if self.stop == FIRST_LOOK else self.stop // 2
        return folder is not None and any(folder.glob(_round_name(start, "*", "logprobs")))

    @property
    def work_units(self) -> int:
        """Windows, if the text has that many."""
        return self.stop

    def run(self, site: Site) -> TextRoundsResult:
        from sweep.measure.text_measurement import TextMeasurement, measure_text

        backend = site.open(self.model)
        text = self.cut_windows(site, backend)
        windows = text.in_random_order()
        total = len(windows.tokens)
        incomplete_reason, next_look = None, None
        try:
            measured = self._measure_rounds(site, backend, windows)
        except InputError as error:
            if self.reference is None:
                raise
            options: dict[str, Any] = {"threads": site.resources.threads, "progress": site.report_progress}
            found = measure_text(backend, windows.head(self.stop), **options)  # raises if the model is to blame
            measured = found.positions
            incomplete_reason = f"no divergence: {error}"
        values = self._values(measured)
        if self.rule is not None and values is not None and not self._is_enough(measured, total):
            next_look = self.rule.next_look(values, total)
        figures = TextMeasurement(measured)
        return TextRoundsResult(
            perplexity=figures.perplexity,
            divergence=figures.divergence,
            noise_floor=self._noise_floor(site, backend, windows),
            windows_sha256=windows.sha256,
            incomplete_reason=incomplete_reason,
            windows=measured.windows,
            of_windows=total,
            next_look=next_look,
            text_sha256=text.sha256,
        )

    def _measure_rounds(self, site: Site, backend: Backend, windows: Windows) -> TextPositions:
        """The positions of all rounds until the rule is met. Rounds that were measured before are read from their
        files. Without the divergence, if the reference has failed, nothing is kept."""
        from sweep.measure.positions import joined, load_positions
        from sweep.measure.reference import open_reference
        from sweep.measure.text_measurement import measure_text

        total = len(windows.tokens)
        has_lost_reference = self.baseline is not None and self.reference is None
        folder = None if has_lost_reference else self.positions
        rounds: list[TextPositions] = []
        for start, stop in self._rounds(total):
            file = _round_file(site, folder, start, stop, "npz")
            written = _round_file(site, self.distributions, start, stop, "logprobs")
            known = None if file is None or (written is not None and not written.exists()) else load_positions(file)
            if known is None:
                reference = _round_file(site, self.reference, start, stop, "logprobs")
                known = measure_text(
                    backend,
                    windows.part(start, stop),
                    reference=None if reference is None else open_reference(reference),
                    write_reference=written,
                    model=site.path(self.model.file).name,
                    threads=site.resources.threads,
                    progress=partial(_report, site, start, min(self.stop, total)),
                ).positions
                if file is not None:
                    known.save(file)
            rounds.append(known)
            if self._is_enough(joined(rounds), total):
                break
        return joined(rounds)

    def _rounds(self, total: int) -> Iterator[tuple[int, int]]:
        """The first window of each round, and the first one after it."""
        return (
            (start, stop) for start, stop in pairwise((0, *looks(total))) if stop <= max(self.stop, looks(total)[0])
        )

    def _is_enough(self, measured: TextPositions, total: int) -> bool:
        values = self._values(measured)
        if self.rule is None or values is None or measured.windows < min(self.at_least, total):
            return False
        return self.rule.is_met(values, total)

    def _values(self, measured: TextPositions) -> Array | None:
        """A value for each window, of whose mean enough has to be known. None if a variant has no divergence."""
        if measured.divergence is not None:
            return measured.divergence.kld.mean(axis=1)
        return linear_perplexities(measured.nll.mean(axis=1)) if self.baseline is None else None

    def _noise_floor(self, site: Site, backend: Backend, windows: Windows) -> NoiseFloor | None:
        """That of the reference, from windows of its first round. It is measured once."""
        from converters.atomic import write_text
        from sweep.jobs import serialization
        from sweep.measure.reference import open_reference
        from sweep.measure.text_measurement import noise_floor
        from sweep.measure.text_results import NoiseFloor

        if self.distributions is None:
            return None
        folder, total = site.path(self.distributions), len(windows.tokens)
        kept = folder / "noise-floor.json"
        if kept.exists():
            return serialization.from_json(json.loads(kept.read_text()), NoiseFloor)
        first = looks(total)[0]
        known, count = open_reference(folder / _round_name(0, first, "logprobs")), max(2, min(8, total // 16))
        floor = noise_floor(backend, windows.head(first), known, n_windows=count, threads=site.resources.threads)
        write_text(kept, json.dumps(serialization.to_json(floor)))
        return floor


def linear_perplexities(nll: Array) -> Array:
    """Values (n,) whose mean is the perplexity exp(mean(nll)), from the mean negative log-likelihoods of windows (n,).
    The share that half the interval of their mean is of it is the same as that of the perplexity, by the delta
    method."""
    mean = nll.mean()
    return np.exp(mean) * (1.0 + nll - mean)


def _report(site: Site, start: int, goal: int, done: int, _total: int) -> None:
    site.report_progress(start + done, goal)


def _round_file(site: Site, folder: Artefact | None, start: int, stop: int, ending: str) -> Path | None:
    return None if folder is None else site.path(folder) / _round_name(start, stop, ending)


def _round_name(start: int, stop: int | Literal["*"], ending: str) -> str:
    return f"{start}-{stop}.{ending}"
