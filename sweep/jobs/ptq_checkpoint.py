"""The job that makes a checkpoint by post-training quantization, calibrated with a text if its recipe needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ptq.recipe import PtqRecipe
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob, content_hash
from sweep.jobs.inputs import TextFile
from sweep.jobs.settings import ComputeResources


@dataclass(frozen=True)
class PtqCheckpointResult(Result):
    """The size of the checkpoint: bytes of its files, and bits per weight of all its tensors. `calibration` says what
    it was calibrated with; `error` is the mean relative error of the layers' outputs, None if no text was read."""

    file_bytes: int
    bits_per_weight: float
    calibration: Mapping[str, Any] = field(default_factory=dict)
    error: float | None = None

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


@dataclass(frozen=True)
class PtqCheckpointJob(StoredJob[PtqCheckpointResult]):
    """Quantize the checkpoint `source` by a recipe, into a directory below `folder`. `model` is a hash of the
    checkpoint's content."""

    kind = "ptq"
    result_type = PtqCheckpointResult
    weight = 6.0
    is_preparation = True
    output_is_model = True

    source: Artefact
    name: str
    recipe: PtqRecipe
    folder: str
    model: str
    engine: str
    text: TextFile | None = None

    @property
    def _own_identity(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "recipe": self.recipe.to_json(),
            "engine": self.engine,
            "text": None if self.text is None else self.text.identity,
            "procedure": self.procedure,  # part of the directory's name too, because an existing directory is reused
        }

    def identity(self, resources: ComputeResources) -> Any:
        return {"kind": self.kind, **self._own_identity}

    @property
    def output(self) -> Artefact:
        name = self.recipe.name.replace(":", "-")
        return Artefact(f"{self.folder}/{self.name}-{name}-{content_hash(self._own_identity)[:8]}.ptq")

    @property
    def input_texts(self) -> tuple[TextFile, ...]:
        return () if self.text is None else (self.text,)

    def run(self, site: Site) -> PtqCheckpointResult:
        import torch

        from ptq import checkpoint
        from ptq.quantize import quantize
        from sweep.jobs.calibration import calibration_source

        torch.set_num_threads(site.resources.threads)
        out, text = site.path(self.output), self.text
        # A directory appears only when it is complete. If it exists, another run made it and may be reading it, or was
        # killed before it could store the result.
        if not checkpoint.is_ptq(out):
            quantize(
                site.path(self.source),
                self.recipe,
                None if text is None else calibration_source(text.name, text.form, lambda: site.path(text.file)),
                out,
                device=site.resources.device("torch"),
                dtype="bfloat16",  # whatever dtype the checkpoint has: the baseline torch:BF16 is loaded in it too
                progress=site.report_progress,
            )
        found = checkpoint.read_summary(out)
        return PtqCheckpointResult(found.file_bytes, found.bits_per_weight, found.calibration, found.error)
