"""What jobs that quantize a model in torch have in common: the checkpoint that they make, and what it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from int8.recipe import Recipe
from ptq.recipe import PtqRecipe
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, StoredJob, content_hash
from sweep.jobs.inputs import SpeechFile, TextFile
from sweep.jobs.settings import ComputeResources


@dataclass(frozen=True)
class CheckpointResult(Result):
    """The size of the checkpoint: bytes of its files, and bits per weight of all its tensors. `calibration` says what
    the recipe was calibrated with."""

    file_bytes: int
    bits_per_weight: float
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


C = TypeVar("C", bound=CheckpointResult)


class CheckpointJob(StoredJob[C]):
    """Quantize the checkpoint `source` by a recipe, into a directory below `folder` with this `suffix`.

    `model` is a hash of the checkpoint's content. `text` is the calibration text; None if the recipe reads none.
    `speech` are the recordings in place of it, for a speech model.
    """

    is_preparation = True
    output_is_model = True
    suffix: ClassVar[str]

    source: Artefact
    name: str
    recipe: Recipe | PtqRecipe
    folder: str
    model: str
    engine: str
    text: TextFile | None
    speech: SpeechFile | None = None

    @property
    def _own_identity(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "recipe": self.recipe.to_json(),
            "engine": self.engine,
            "text": None if self.text is None else self.text.identity,
            **({} if self.speech is None else {"speech": self.speech.identity}),
            "procedure": self.procedure,  # part of the directory's name too, because an existing directory is reused
        }

    def identity(self, resources: ComputeResources) -> Any:
        return {"kind": self.kind, **self._own_identity}

    @property
    def output(self) -> Artefact:
        recipe = self.recipe.name.replace(":", "-")
        return Artefact(f"{self.folder}/{self.name}-{recipe}-{content_hash(self._own_identity)[:8]}{self.suffix}")

    @property
    def input_texts(self) -> tuple[TextFile, ...]:
        return () if self.text is None else (self.text,)
