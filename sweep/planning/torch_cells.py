"""The cells of variants that torch runs: the checkpoint in BF16, and recipes of int8 on it, real or fake-quantized."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sweep.planning.cells import PROCEDURES, Asked, Baseline, Cell, cell_of, content_hash, measurements
from sweep.planning.inputs import Text
from sweep.planning.model import Model
from sweep.planning.settings import Settings
from sweep.planning.variant import Variant


@dataclass(frozen=True)
class TorchSide:
    """What variants of torch have in common: the versions that compute, the device, and the text that int8 recipes are
    calibrated with, None where none of them needs one."""

    engine: str
    device: str
    calibration: Text | None

    @property
    def about(self) -> dict[str, Any]:
        """For the report."""
        return {"engine": self.engine, "device": self.device, "calibration": self.calibration and self.calibration.name}


def torch_cells(
    variant: Variant, model: Model, asked: Asked, settings: Settings, torch: TorchSide, baseline: Baseline | None
) -> list[Cell]:
    """The first makes the int8 checkpoint, where the variant has a recipe; the others measure.

    Two variants of one recipe have the same first cell.
    """
    settings = replace(settings, device=torch.device, kv_type=variant.kv_type, gpu_layers=0, cpu_moe=0, tensor_split=())
    source = {"source": str(model.path), "name": model.name}
    file, content = model.path, model.fingerprint
    making: list[Cell] = []
    if variant.recipe is not None:
        recipe = variant.recipe.to_json()
        text = torch.calibration if variant.recipe.needs_text else None
        made: dict[str, Any] = {"model": model.fingerprint, "recipe": recipe, "engine": torch.engine}
        made["text"] = text and text.identity
        made["procedure"] = PROCEDURES["quantize"]  # of the file's name too: one that is there is taken as it is
        file = asked.artefacts / f"{model.name}-{variant.recipe.name}-{content_hash(made)[:8]}.int8"
        params = source | {"recipe": recipe, "text": text and str(text.file), "text_name": text and text.name}
        params |= {"file": str(file), "cache": str(asked.artefacts / "bfloat16"), "settings": asdict(settings)}
        making = [cell_of(variant, "quantize", "quantize", made, params, makes=str(file))]
        content = making[0].key
    base: dict[str, Any] = {"content": content, "runs": variant.kind, "engine": torch.engine, "device": torch.device}
    base |= {"window": settings.window, "stride": settings.stride}
    timed: dict[str, Any] = {"threads": settings.threads, "ctx": settings.ctx, "ubatch": settings.ubatch}
    common = {"file": str(file), "runs": variant.kind, "settings": asdict(settings)}
    needs = tuple(cell.key for cell in making)
    cells = measurements(variant, asked, base, timed, common, needs, baseline)
    return making + [replace(cell, params=cell.params | source) if cell.kind == "speed" else cell for cell in cells]
