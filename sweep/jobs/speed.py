"""Tokens per second, and memory: as it is predicted, and as the process grew by loading and decoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep import format as fmt
from sweep.jobs.base import Result, Site
from sweep.jobs.cell import Asked, PlannedJob
from sweep.jobs.given import Baseline
from sweep.jobs.model import MeasuredModel, MeasuringJob, opener
from sweep.jobs.settings import Where
from sweep.measure.speed import TokenRates


@dataclass(frozen=True)
class MeasuredMemory:
    """See `sweep.record.Memory`; `predicted` are llama.cpp's parts of the prediction, where it was asked."""

    predicted_bytes: int | None = None
    measured_bytes: int | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None
    predicted: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SpeedResult(Result):
    speed: TokenRates
    memory: MeasuredMemory
    file_bytes: int
    bits_per_weight: float
    load_seconds: float | None = None

    @property
    def summary(self) -> str:
        return f"{fmt.rate(self.speed.decode_tokens_per_s)} t/s"


@dataclass(frozen=True)
class SpeedJob(MeasuringJob[SpeedResult]):
    """How fast the model is, and what it takes."""

    kind = "speed"
    found = SpeedResult
    procedure = 2
    alone = True

    model: MeasuredModel

    def identity(self, where: Where) -> Any:
        return {"kind": self.kind, "procedure": self.procedure, **self.model.timed_identity(where)}

    def run(self, site: Site) -> SpeedResult:
        from sweep.measure.speed import measure_speed

        size = opener(self.model.opener).size(self.model, site)
        backend = site.open(self.model)
        speed = measure_speed(backend, self.model.settings.ctx)
        used = backend.memory()
        return SpeedResult(
            speed=speed,
            memory=MeasuredMemory(
                size.memory_bytes, used.measured_bytes, used.resident_bytes, used.device_bytes, size.parts
            ),
            file_bytes=size.file_bytes,
            bits_per_weight=size.bits_per_weight,
            load_seconds=backend.load_seconds,
        )


def measure_speed_of(model: MeasuredModel, asked: Asked, baseline: Baseline | None) -> Iterable[PlannedJob]:
    return [PlannedJob("speed", SpeedJob(model))]
