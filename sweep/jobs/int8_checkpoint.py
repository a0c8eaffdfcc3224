"""The job that makes an int8 checkpoint from a model by a recipe, calibrated with a text if the recipe needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from int8.recipe import Recipe
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob, content_hash
from sweep.jobs.inputs import TextFile
from sweep.jobs.settings import ComputeResources


@dataclass(frozen=True)
class Int8CheckpointResult(Result):
    """The size of the checkpoint. `calibration` says what the recipe was calibrated with."""

    file_bytes: int
    bits_per_weight: float
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


@dataclass(frozen=True)
class Int8CheckpointJob(StoredJob[Int8CheckpointResult]):
    """Quantize the checkpoint `source` to int8, into a directory below `folder`. Statistics that several recipes need
    are cached in `folder` too. `model` is a hash of the checkpoint's content."""

    kind = "quantize"  # part of every key and of stored plans
    result_type = Int8CheckpointResult
    weight = 4.0
    is_preparation = True
    output_is_model = True

    source: Artefact
    name: str
    recipe: Recipe
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
        return Artefact(f"{self.folder}/{self.name}-{self.recipe.name}-{content_hash(self._own_identity)[:8]}.int8")

    @property
    def input_texts(self) -> tuple[TextFile, ...]:
        return () if self.text is None else (self.text,)

    def run(self, site: Site) -> Int8CheckpointResult:
        import torch

        from int8 import checkpoint
        from int8.quantize_model import quantize_model
        from sweep.jobs.calibration import calibration_source
        from sweep.jobs.sizes import stored_size

        torch.set_num_threads(site.resources.threads)
        source, out, text = site.path(self.source), site.path(self.output), self.text
        if checkpoint.is_int8(out):
            # A directory appears only when it is complete. Another run made this one and may be reading it, or was
            # killed before it could store the result.
            return _result(checkpoint.read_calibration(out), stored_size(out))
        model, calibration = quantize_model(
            source,
            self.recipe,
            None if text is None else calibration_source(text.name, text.form, lambda: site.path(text.file)),
            device=site.resources.device("torch"),
            dtype="bfloat16",  # whatever dtype the checkpoint has: the baseline torch:BF16 is loaded in it too
            cache=site.root / self.folder / "bfloat16",
            progress=site.report_progress,
        )
        checkpoint.save(model, self.recipe, calibration, source, out)
        return _result(calibration, stored_size(out))


def _result(calibration: Any, size: Any) -> Int8CheckpointResult:
    return Int8CheckpointResult(size.file_bytes, size.bits_per_weight, asdict(calibration))
