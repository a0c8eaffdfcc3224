"""The job that makes an int8 checkpoint from a model by a recipe, calibrated with a text if the recipe needs one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from int8.recipe import Recipe
from sweep.artefact import Artefact
from sweep.jobs.base import Site
from sweep.jobs.checkpoint import CheckpointJob, CheckpointResult
from sweep.jobs.inputs import SpeechFile, TextFile

if TYPE_CHECKING:
    from int8.quantize_model import CalibrationSource


@dataclass(frozen=True)
class Int8CheckpointResult(CheckpointResult):
    """The size of an int8 checkpoint, and what its recipe was calibrated with."""


@dataclass(frozen=True)
class Int8CheckpointJob(CheckpointJob[Int8CheckpointResult]):
    """Quantize a checkpoint to int8. Statistics that several recipes need are cached in `folder` too."""

    kind = "quantize"  # part of every key and of stored plans
    result_type = Int8CheckpointResult
    weight = 4.0
    suffix = ".int8"

    source: Artefact
    name: str
    recipe: Recipe
    folder: str
    model: str
    engine: str
    text: TextFile | None = None
    speech: SpeechFile | None = None

    def run(self, site: Site) -> Int8CheckpointResult:
        import torch

        from int8 import checkpoint
        from int8.quantize_model import quantize_model
        from sweep.jobs.sizes import stored_size

        torch.set_num_threads(site.resources.threads)
        source, out = site.path(self.source), site.path(self.output)
        if checkpoint.is_int8(out):
            # A directory appears only when it is complete. Another run made this one and may be reading it, or was
            # killed before it could store the result.
            return _result(checkpoint.read_calibration(out), stored_size(out))
        model, calibration = quantize_model(
            source,
            self.recipe,
            self._source(site),
            device=site.resources.device("torch"),
            dtype="bfloat16",  # whatever dtype the checkpoint has: the baseline torch:BF16 is loaded in it too. A
            # speech model keeps its own, because its baseline is torch:F32
            cache=site.root / self.folder / "bfloat16",
            progress=site.report_progress,
        )
        checkpoint.save(model, self.recipe, calibration, source, out)
        return _result(calibration, stored_size(out))

    def _source(self, site: Site) -> CalibrationSource | None:
        """What the recipe is calibrated with."""
        from sweep.jobs.calibration import calibration_source
        from sweep.jobs.speech_calibration import SpeechCalibration

        text, speech = self.text, self.speech
        if speech is not None:
            return SpeechCalibration(
                speech.name, site.path(speech.directory), speech.language, speech.first, speech.count
            )
        return None if text is None else calibration_source(text.name, text.form, lambda: site.path(text.file))


def _result(calibration: Any, size: Any) -> Int8CheckpointResult:
    return Int8CheckpointResult(size.file_bytes, size.bits_per_weight, asdict(calibration))
