"""Perplexity of a text and the divergence from a reference; or the reference's own distributions, for the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from converters.errors import InputError
from sweep import format as fmt
from sweep.artefact import Artefact, sampled_digest
from sweep.jobs.base import Result, Site, content_hash
from sweep.jobs.cell import Asked, PlannedJob
from sweep.jobs.given import Baseline, TextFile
from sweep.jobs.model import MeasuredModel, MeasuringJob
from sweep.jobs.settings import Where
from sweep.measure.text_results import DivergenceResult, NoiseFloor, PerplexityResult


def text_summary(perplexity: PerplexityResult, divergence: DivergenceResult | None) -> str:
    """The divergence, which says more, where there is one."""
    return f"PPL {perplexity.value:.3f}" if divergence is None else f"KLD {fmt.small(divergence.figures.kld_mean)}"


@dataclass(frozen=True)
class TextResult(Result):
    """`windows_sha256` names the windows that were scored, `base_file` is a digest of llama.cpp's base file where one
    was written. `lacking` says why there is no divergence where the reference turns out to be of no use."""

    perplexity: PerplexityResult
    divergence: DivergenceResult | None = None
    noise_floor: NoiseFloor | None = None
    windows_sha256: str | None = None
    base_file: str | None = None
    lacking: str | None = None

    @property
    def summary(self) -> str:
        return text_summary(self.perplexity, self.divergence)


@dataclass(frozen=True)
class TextJob(MeasuringJob[TextResult]):
    """`reference` is the file of the distributions that it is compared with, and `baseline` their identity; both None
    where this is the reference, or where there is none. `distributions` is where it writes its own; `by_itself`
    that nobody reads them."""

    kind = "text"
    found = TextResult
    procedure = 2
    weight = 4.0

    model: MeasuredModel
    text: TextFile
    baseline: str | None = None
    reference: Artefact | None = None
    distributions: Artefact | None = None
    base_file: Artefact | None = None
    by_itself: bool = False

    def identity(self, where: Where) -> Any:
        own = {"text": self.text.identity, "reference": self.baseline}
        mark = {"alone": True} if self.by_itself else {}
        return {"kind": self.kind, "procedure": self.procedure, **self.model.identity(where), **own, **mark}

    @property
    def makes(self) -> Artefact | None:
        return self.distributions

    @property
    def like(self) -> str:
        return self.text.name

    def left(self, result: TextResult, root: Path) -> bool:
        """Whether the base file that is asked for, if one is, is the one that this cell wrote."""
        if self.base_file is None:
            return True
        path = self.base_file.under(root)
        return path.is_file() and sampled_digest(path) == result.base_file

    def without_reference(self) -> Self:
        return replace(self, reference=None)

    @property
    def reads(self) -> tuple[TextFile, ...]:
        return (self.text,)

    def run(self, site: Site) -> TextResult:
        from sweep.measure.perplexity import cut_windows
        from sweep.measure.plain_text import read_text
        from sweep.measure.reference import open_reference
        from sweep.measure.text_measurement import measure_text, noise_floor

        backend, settings = site.open(self.model), self.model.settings
        text = read_text(site.path(self.text.file))
        windows = cut_windows(backend, text, n_ctx=settings.window, stride=settings.stride)
        written = None if self.distributions is None else site.path(self.distributions)
        base = None if self.base_file is None else site.path(self.base_file)
        measure = partial(measure_text, backend, threads=site.where.threads, progress=site.tell, write_base_file=base)
        lacking = None
        if self.reference is None:
            measured = measure(windows, write_reference=written, model=site.path(self.model.file).name)
        else:
            try:
                known = open_reference(site.path(self.reference))
                part = windows.head(known.windows)  # a given file may be of the text's beginning alone
                measured = measure(part, reference=known)
                windows = part
            except InputError as error:
                measured, lacking = measure(windows), f"no divergence: {error}"  # raises where the model is to blame
        return TextResult(
            perplexity=measured.perplexity,
            divergence=measured.divergence,
            noise_floor=None if written is None else noise_floor(backend, windows, open_reference(written)),
            windows_sha256=windows.sha256,
            base_file=None if base is None else sampled_digest(base),
            lacking=lacking,
        )


def measure_text_of(model: MeasuredModel, asked: Asked, baseline: Baseline | None) -> Iterable[PlannedJob]:
    """Without a baseline, its own distributions are written for the others."""
    if asked.text is None:
        return []
    named = content_hash(model.identity(asked.where) | {"text": asked.text.identity})
    own = asked.artefact(f"reference-{named[:16]}.logprobs")
    job = TextJob(
        model,
        asked.text,
        baseline=None if baseline is None else baseline.identity,
        reference=None if baseline is None else baseline.file,
        distributions=own if baseline is None and not asked.alone else None,
        base_file=asked.base_file,
        by_itself=asked.alone,
    )
    return [PlannedJob("text", job, () if baseline is None or baseline.key is None else (baseline.key,))]
