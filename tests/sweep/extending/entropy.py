"""An example of a measurement that is not part of the program: the mean entropy of the next token on a text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.jobs import registry
from sweep.jobs.base import Result, Site
from sweep.jobs.cell import PlannedJob, SweepInputs
from sweep.jobs.inputs import Baseline, TextFile
from sweep.jobs.model import MeasuredModel, MeasurementJob
from sweep.jobs.settings import ComputeResources
from sweep.record import Value


@dataclass(frozen=True)
class EntropyResult(Result):
    """Mean entropy of the next token in nats, and its standard error over the windows of the text."""

    mean: float
    stderr: float

    @property
    def summary(self) -> str:
        return f"{self.mean:.3f} nats"

    @property
    def figures(self) -> dict[str, Value]:
        return {"entropy": Value(self.mean, self.stderr, "entropy", "nats")}


@dataclass(frozen=True)
class EntropyJob(MeasurementJob[EntropyResult]):
    """Let the model read a text, and compute the entropy of every predicted distribution."""

    kind = "entropy"
    result_type = EntropyResult

    model: MeasuredModel
    text: TextFile

    def identity(self, resources: ComputeResources) -> Any:
        return {
            "kind": self.kind,
            "procedure": self.procedure,
            **self.model.identity(resources),
            "text": self.text.identity,
        }

    def run(self, site: Site) -> EntropyResult:
        from sweep.measure.perplexity import cut_windows
        from sweep.measure.plain_text import read_text

        backend, window = site.open(self.model), self.model.settings.window
        windows = cut_windows(backend, read_text(site.path(self.text.file)), n_ctx=window)
        sums: dict[int, list[float]] = {}
        for part in backend.windows(windows.tokens, windows.first):
            logits = part.logits.astype(np.float64)
            logp = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            sums.setdefault(part.window, []).extend((-np.exp(logp) * logp).sum(axis=1))
            site.report_progress(part.window + 1, len(windows.tokens))
        means = np.array([np.mean(values) for values in sums.values()])
        return EntropyResult(float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))))


def entropy_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    return [] if inputs.text is None else [PlannedJob("entropy", EntropyJob(model, inputs.text))]


registry.register(EntropyJob, entropy_jobs)
