"""An int8 checkpoint made of a model by a recipe, calibrated with a text where the recipe needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from int8.recipe import Recipe
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob, content_hash
from sweep.jobs.given import TextFile
from sweep.jobs.settings import Where


@dataclass(frozen=True)
class QuantizeResult(Result):
    """`calibration` says what the recipe was calibrated with."""

    file_bytes: int
    bits_per_weight: float
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


@dataclass(frozen=True)
class QuantizeJob(StoredJob[QuantizeResult]):
    """Quantize the checkpoint `source`, whose content is `model`, into a directory of `folder`, where statistics that
    recipes share are kept too."""

    kind = "quantize"
    found = QuantizeResult
    weight = 4.0
    making = True
    makes_model = True

    source: Artefact
    name: str
    recipe: Recipe
    folder: str
    model: str
    engine: str
    text: TextFile | None = None

    @property
    def _made(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "recipe": self.recipe.to_json(),
            "engine": self.engine,
            "text": None if self.text is None else self.text.identity,
            "procedure": self.procedure,  # of the file's name too: one that is there is taken as it is
        }

    def identity(self, where: Where) -> Any:
        return {"kind": self.kind, **self._made}

    @property
    def makes(self) -> Artefact:
        return Artefact(f"{self.folder}/{self.name}-{self.recipe.name}-{content_hash(self._made)[:8]}.int8")

    @property
    def reads(self) -> tuple[TextFile, ...]:
        return () if self.text is None else (self.text,)

    def run(self, site: Site) -> QuantizeResult:
        import torch

        from int8 import build, checkpoint
        from sweep.jobs.sizes import stored_size
        from sweep.measure.plain_text import read_text

        torch.set_num_threads(site.where.threads)
        source, out, text = site.path(self.source), site.path(self.makes), self.text
        if checkpoint.is_int8(out):  # whole, for it appears so: made by a run beside this one, which may be reading it,
            # or by one that was killed before it could write that down
            return _result(checkpoint.read_calibration(out), stored_size(out))
        model, calibration = build.build(
            source,
            self.recipe,
            None if text is None else build.CalibrationText(text.name, lambda: read_text(site.path(text.file))),
            device=site.where.device("torch"),
            dtype="bfloat16",  # whatever the checkpoint is stored in: so is what the variant is compared with
            cache=site.root / self.folder / "bfloat16",
            progress=site.tell,
        )
        checkpoint.save(model, self.recipe, calibration, source, out)
        return _result(calibration, stored_size(out))


def _result(calibration: Any, size: Any) -> QuantizeResult:
    return QuantizeResult(size.file_bytes, size.bits_per_weight, asdict(calibration))
