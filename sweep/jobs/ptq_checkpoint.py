"""The job that makes a checkpoint by post-training quantization, calibrated with a text if its recipe needs one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ptq.recipe import PtqRecipe
from sweep.artefact import Artefact
from sweep.jobs.base import Site
from sweep.jobs.checkpoint import CheckpointJob, CheckpointResult
from sweep.jobs.inputs import TextFile


@dataclass(frozen=True)
class PtqCheckpointResult(CheckpointResult):
    """`error` is the mean relative error of the layers' outputs, None if no text was read. `notes`: see `Result`."""

    error: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PtqCheckpointJob(CheckpointJob[PtqCheckpointResult]):
    """Quantize a checkpoint by a recipe of ptq.recipe."""

    kind = "ptq"
    result_type = PtqCheckpointResult
    weight = 6.0
    suffix = ".ptq"

    source: Artefact
    name: str
    recipe: PtqRecipe
    folder: str
    model: str
    engine: str
    text: TextFile | None = None

    @property
    def _own_identity(self) -> dict[str, Any]:
        identity = super()._own_identity
        if self.recipe.asymmetric_calibration:
            identity["gptaq"] = 2  # the first one left experts without correction
        return identity

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
        notes = () if found.damping is None else (found.damping,)
        return PtqCheckpointResult(found.file_bytes, found.bits_per_weight, found.calibration, found.error, notes)
