"""The job that measures how many tokens of a draft model a variant accepts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sweep.defaults import DRAFTED_TOKENS
from sweep.jobs.base import Result, Site
from sweep.jobs.cell import PlannedJob, SweepInputs
from sweep.jobs.inputs import Baseline, TextFile
from sweep.jobs.model import MeasuredModel, MeasurementJob
from sweep.jobs.settings import ComputeResources
from sweep.measure.acceptance import Acceptance
from sweep.record import Value


@dataclass(frozen=True)
class AcceptanceResult(Result):
    """`found`: the figures."""

    found: Acceptance

    @property
    def summary(self) -> str:
        return f"{100 * self.found.rate:.0f} % accepted"

    @property
    def figures(self) -> dict[str, Value]:
        return {
            "acceptance": Value(100 * self.found.rate, 100 * self.found.stderr, "Accepted", "%", 1),
            "tokens_per_pass": Value(self.found.tokens_per_pass, None, "Tokens/pass", "", 2),
        }


@dataclass(frozen=True)
class AcceptanceJob(MeasurementJob[AcceptanceResult]):
    """Let `model` continue parts of a text, and count the tokens of `draft` that it accepts."""

    kind = "acceptance"
    result_type = AcceptanceResult

    model: MeasuredModel
    draft: MeasuredModel
    text: TextFile
    drafted: int = DRAFTED_TOKENS

    def identity(self, resources: ComputeResources) -> Any:
        return {
            "kind": self.kind,
            "procedure": self.procedure,
            **self.model.identity(resources),
            "text": self.text.identity,
            "draft": self.draft.identity(resources),
            "drafted": self.drafted,
        }

    @property
    def input_texts(self) -> tuple[TextFile, ...]:
        return (self.text,)

    def run(self, site: Site) -> AcceptanceResult:
        from sweep.measure import acceptance as measure
        from sweep.measure.perplexity import cut_windows
        from sweep.measure.texts import model_text

        backend, window = site.open(self.model), self.model.settings.window
        text = model_text(site.path(self.text.file), self.text.form, backend)
        windows = cut_windows(backend, text, n_ctx=window, parse_special=self.text.form.parses_special)
        prompts = measure.prompts_of(windows.tokens)
        texts = measure.generated(backend, prompts, min(measure.NEW_TOKENS, window // 2))
        right = measure.drafted_right(site.open(self.draft), prompts, texts)
        return AcceptanceResult(measure.acceptance(right, self.drafted))


def acceptance_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    if inputs.draft is None or inputs.text is None:
        return []
    return [PlannedJob("acceptance", AcceptanceJob(model.text_only, inputs.draft, inputs.text))]
