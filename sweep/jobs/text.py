"""The job that measures a text: perplexity, and KL divergence from a reference. For the reference itself, the job
writes the distributions that other variants are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from converters.errors import InputError
from sweep import format as fmt
from sweep.artefact import Artefact, sampled_digest
from sweep.jobs.base import Result, Site
from sweep.jobs.inputs import TextFile
from sweep.jobs.model import MeasuredModel, MeasurementJob
from sweep.jobs.settings import ComputeResources
from sweep.measure.text_results import DivergenceResult, NoiseFloor, PerplexityResult

if TYPE_CHECKING:
    from sweep.backends.base import Backend
    from sweep.measure.perplexity import Windows


def text_summary(perplexity: PerplexityResult, divergence: DivergenceResult | None) -> str:
    """The divergence, if there is one, because it says more than the perplexity."""
    return f"PPL {perplexity.value:.3f}" if divergence is None else f"KLD {fmt.small(divergence.figures.kld_mean)}"


@dataclass(frozen=True)
class TextResult(Result):
    """The result of a text. `windows_sha256` is a hash of the tokens of the scored windows, `base_file` a digest of the
    base file in llama.cpp's format if one was written. `incomplete_reason` says why there is no divergence if the
    reference cannot be used."""

    perplexity: PerplexityResult
    divergence: DivergenceResult | None = None
    noise_floor: NoiseFloor | None = None
    windows_sha256: str | None = None
    base_file: str | None = None
    incomplete_reason: str | None = None

    @property
    def summary(self) -> str:
        return text_summary(self.perplexity, self.divergence)


@dataclass(frozen=True)
class TextJob(MeasurementJob[TextResult]):
    """Measure a text with a model.

    `reference` is the file with the distributions to compare with, `baseline` their identity; both are None for the
    reference itself, and if there is no reference. `distributions` is where the job writes its own distributions.
    `by_itself`: nothing is compared, so no distributions are written. `windows` is how many windows are read at most;
    None: all.
    """

    kind = "text"
    result_type = TextResult
    procedure = 2
    weight = 4.0

    model: MeasuredModel
    text: TextFile
    baseline: str | None = None
    reference: Artefact | None = None
    distributions: Artefact | None = None
    base_file: Artefact | None = None
    by_itself: bool = False
    windows: int | None = None

    def identity(self, resources: ComputeResources) -> Any:
        own = {"text": self.text.identity, "reference": self.baseline}
        single = {"alone": True} if self.by_itself else {}  # the name in the keys of stored results
        return {
            "kind": self.kind,
            "procedure": self.procedure,
            **self.model.identity(resources),
            **own,
            **single,
            **part_identity(self.windows),
        }

    @property
    def output(self) -> Artefact | None:
        return self.distributions

    @property
    def timing_group(self) -> str:
        return self.text.name

    @property
    def work_units(self) -> int:
        """Thousandths of the text."""
        return max(1, round(1000 * share_of_text(self.text, self.windows, self.model.settings.window)))

    def user_files_intact(self, result: TextResult, root: Path) -> bool:
        """Whether the base file of the user, if there is to be one, is the one that this job wrote."""
        if self.base_file is None:
            return True
        path = self.base_file.under(root)
        return path.is_file() and sampled_digest(path) == result.base_file

    def without_reference(self) -> Self:
        return replace(self, reference=None)

    @property
    def input_texts(self) -> tuple[TextFile, ...]:
        return (self.text,)

    def cut_windows(self, site: Site, backend: Backend) -> Windows:
        """The windows of the text, in its order."""
        from sweep.measure.perplexity import cut_windows
        from sweep.measure.texts import model_text

        settings, form = self.model.settings, self.text.form
        return cut_windows(
            backend,
            model_text(site.path(self.text.file), form, backend),
            n_ctx=settings.window,
            stride=settings.stride,
            max_windows=self.windows,
            parse_special=form.parses_special,
        )

    def run(self, site: Site) -> TextResult:
        from sweep.measure.reference import open_reference
        from sweep.measure.text_measurement import measure_text, noise_floor

        backend = site.open(self.model)
        windows = self.cut_windows(site, backend)
        written = None if self.distributions is None else site.path(self.distributions)
        base = None if self.base_file is None else site.path(self.base_file)
        measure = partial(
            measure_text, backend, threads=site.resources.threads, progress=site.report_progress, write_base_file=base
        )
        incomplete_reason = None
        if self.reference is None:
            measured = measure(windows, write_reference=written, model=site.path(self.model.file).name)
        else:
            try:
                known = open_reference(site.path(self.reference))
                part = windows.head(known.windows)  # the user's reference file may cover only the beginning of the text
                measured = measure(part, reference=known)
                windows = part
            except InputError as error:
                measured = measure(windows)  # raises if the model is to blame
                incomplete_reason = f"no divergence: {error}"
        return TextResult(
            perplexity=measured.perplexity,
            divergence=measured.divergence,
            noise_floor=None if written is None else noise_floor(backend, windows, open_reference(written)),
            windows_sha256=windows.sha256,
            base_file=None if base is None else sampled_digest(base),
            incomplete_reason=incomplete_reason,
        )


BYTES_PER_TOKEN = 4.2  # of English text, in the vocabularies of Qwen and Llama


def share_of_text(text: TextFile, windows: int | None, window: int) -> float:
    """About how much of a text this number of windows is, 1 if they are all of it or its size is not known."""
    if windows is None or not text.bytes:
        return 1.0
    return min(1.0, windows * window * BYTES_PER_TOKEN / text.bytes)


def part_identity(windows: int | None) -> dict[str, Any]:
    """What the identity of a part of a text has more than that of the whole text."""
    return {} if windows is None else {"windows": windows}
