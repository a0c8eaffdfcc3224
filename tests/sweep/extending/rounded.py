"""An example of a method that is not part of the program: weight matrices rounded to n bits, run by torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from converters.errors import InputError
from sweep.backends.base import Backend
from sweep.fit import registry as fit_registry
from sweep.fit.fit_inputs import FitInputs
from sweep.fit.fit_report import FitRow
from sweep.fit.registry import FitKind
from sweep.fit.torch_memory import sizes_of, torch_row
from sweep.jobs.base import RunJob, Site
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.inputs import ImatrixFile, Origin
from sweep.jobs.model import MeasuredModel, ModelSize, Opener, engine_versions
from sweep.jobs.model import register as register_opener
from sweep.jobs.settings import Settings
from sweep.methods import registry
from sweep.methods.base import PredictedSize
from sweep.methods.torch import TorchVariant


@dataclass(frozen=True)
class Rounded(TorchVariant):
    """Every weight of a linear layer is rounded to `bits` bits; each row of a matrix has a scale."""

    kind = "rounded"
    opener = "rounded"
    usage = "rounded:BITS"

    bits: int

    @classmethod
    def parse(cls, text: str) -> Self:
        bits = text.partition(":")[2]
        if not bits.isdigit() or not 2 <= int(bits) <= 8:
            raise InputError(f"{text}: give 2 to 8 bits, as rounded:4")
        return cls(f"rounded:{int(bits)}", int(bits))

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        origin, engine, settings = inputs.origin, engine_versions(self.opener), self.settings(inputs.settings)
        options = {"bits": self.bits}
        source, content = origin.source, origin.fingerprint
        return [], MeasuredModel(self.opener, source, content, engine, settings, source, origin.name, options)

    @classmethod
    def predicted_sizes(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, run_job: RunJob
    ) -> dict[str, PredictedSize]:
        size = {variant.name: stored(Path(origin.source.name), variant.bits) for variant in variants}
        return {name: PredictedSize(count, bits, count) for name, (count, bits) in size.items()}

    @classmethod
    def suggested_names(cls) -> tuple[str, ...]:
        return ("rounded:4", "rounded:8")


def stored(directory: Path, bits: int) -> tuple[int, float]:
    """The bytes of the model if it were stored, and its bits per weight. Each row has a float32 scale."""
    from converters.checkpoint import Checkpoint

    total = weights = 0
    with Checkpoint.open(directory) as checkpoint:
        for tensor in checkpoint.tensors.values():
            count = 1
            for length in tensor.shape:
                count *= length
            rounded = len(tensor.shape) == 2 and "proj" in tensor.name
            total += (count * bits // 8 + 4 * tensor.shape[0]) if rounded else 2 * count
            weights += count
    return total, 8 * total / weights


def open_rounded(model: MeasuredModel, site: Site) -> Backend:
    import torch

    from int8.model import open_model
    from int8.tokenizer import load_tokenizer
    from sweep.backends.resident_memory import ResidentGrowth
    from sweep.backends.torch import TorchBackend

    torch.set_num_threads(site.resources.threads)
    path, began = site.path(model.file), time.perf_counter()
    growth = ResidentGrowth(sorted(path.glob("*.safetensors")))
    loaded, tokenizer = open_model(path, "bfloat16"), load_tokenizer(path)
    levels = 2 ** (model.options["bits"] - 1) - 1
    with torch.no_grad():
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.Linear):
                weight = module.weight.float()
                scale = weight.abs().amax(dim=1, keepdim=True) / levels
                module.weight.copy_((weight / scale).round().clamp(-levels, levels) * scale)
    return TorchBackend(loaded, tokenizer, growth, None, time.perf_counter() - began)


def size_of(model: MeasuredModel, site: Site) -> ModelSize:
    size, bits = stored(site.path(model.file), model.options["bits"])
    return ModelSize(size, bits, size)


def fit_rows(names: Sequence[str], subject: FitInputs) -> dict[str, FitRow]:
    """The rows of `sweep fit`. The model runs in bfloat16, whatever it is rounded to."""
    sizes = sizes_of(subject.source, subject.shape, None)
    return {name: torch_row(name, Rounded.kind, sizes, None, subject) for name in names}


def _register() -> None:
    fit_registry.register("rounded", FitKind(lambda name: Rounded.parse(name).name, lambda _subject: [], fit_rows))
    openers: Any = Opener("torch", open_rounded, size_of, changes_speed=("ctx", "ubatch"), key_name="rounded")
    register_opener("rounded", openers)
    registry.register("rounded", Rounded)


_register()
