"""Variants that are stored as a checkpoint directory: what `sweep convert` writes beside GGUF files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from int8.recipe_sizes import RecipeSizes
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.inputs import ImatrixFile
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.model import MeasuredModel, engine_versions
from sweep.jobs.ptq_checkpoint import PtqCheckpointJob
from sweep.methods.base import preparation_cell
from sweep.methods.torch import TorchVariant

if TYPE_CHECKING:
    from converters.source import Source
    from int8.quantize_model import CalibrationSource


@dataclass(frozen=True)
class CheckpointTask:
    """A checkpoint to write: from the checkpoint directory `source` into the directory `out`.

    - `text` is read by variants that need one: `samples` samples of `length` tokens; None: the method's own numbers.
    - `cache` is a folder for statistics that several variants need.
    - `dequantized`: float weights are written, with the values of the quantized ones.
    - `origin` is stored with the checkpoint: what it is made from. `replace`: what is at `out` is replaced.
    """

    source: Path
    out: Path
    text: CalibrationSource | None
    samples: int | None
    length: int | None
    device: str
    cache: Path
    origin: str
    dequantized: bool = False
    replace: bool = False


@dataclass(frozen=True)
class CalibrationFigures:
    """What a written checkpoint was calibrated with. `expert_tokens`: for each layer, the number of calibration tokens
    of each of its experts; layers without experts are left out. `note` is a line about what did not go as the recipe
    says; None if nothing did."""

    text: str | None
    samples: int = 0
    length: int = 0
    note: str | None = None
    expert_tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "samples": self.samples, "length": self.length}

    def experts(self, few: int) -> list[tuple[str, int, int, int, int]]:
        """For every layer with experts: the layer's number, the number of experts, the fewest and the most calibration
        tokens of an expert, and the number of experts with fewer than `few`."""
        return [
            (layer, len(counts), min(counts), max(counts), sum(count < few for count in counts))
            for layer, counts in self.expert_tokens.items()
        ]


@dataclass(frozen=True)
class CheckpointVariant(TorchVariant):
    """A variant that a recipe makes, stored as a checkpoint directory. A job of the type `job` makes it in a sweep, and
    `sweep convert` can write it for other programs."""

    job: ClassVar[type[Int8CheckpointJob | PtqCheckpointJob]]

    recipe: Any

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        """Variants of one recipe whose jobs are equal share the cell that makes the checkpoint."""
        origin, engine = inputs.origin, engine_versions(self.opener)
        text = inputs.calibration if self.recipe.needs_text else None
        job = self.job(origin.source, origin.name, self.recipe, inputs.folder, origin.fingerprint, engine, text)
        if inputs.speech is not None and self.recipe.needs_text and isinstance(job, Int8CheckpointJob):
            job = replace(job, speech=inputs.speech.calibration)
        cell = preparation_cell(self, "quantize", job, inputs)  # the name in labels and stored plans
        settings = self.settings(inputs.settings)
        model = MeasuredModel(
            self.opener,
            job.output,
            cell.key,
            engine,
            settings,
            origin.source,
            origin.name,
            images=self.image_inputs(inputs),
        )
        return [cell], model

    @property
    def accepts_calibration(self) -> bool:
        return True

    @property
    def needs_calibration(self) -> bool:
        return bool(self.recipe.needs_text)

    @abstractmethod
    def require_written(self, dequantized: bool) -> None:
        """Raises InputError if no other program reads the variant in this form."""

    @abstractmethod
    def report_file(self, dequantized: bool) -> str:
        """The name of the file in the checkpoint with a JSON object whose `origin` is that of the task."""

    @abstractmethod
    def written_sizes(self, source: Source, dequantized: bool) -> RecipeSizes:
        """The sizes of the checkpoint, by formula. Raises InputError if the variant cannot be made from the model."""

    @abstractmethod
    def write(self, task: CheckpointTask, progress: Callable[[int, int], None]) -> CalibrationFigures:
        """Quantize and write; the directory appears complete or not at all. Raises InputError, MissingRuntime."""
