"""The job that measures speed in tokens per second, and memory: predicted, and measured while the model is loaded and
decodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep import format as fmt
from sweep.jobs.base import Result, Site
from sweep.jobs.cell import PlannedJob, SweepInputs
from sweep.jobs.inputs import Baseline
from sweep.jobs.model import MeasuredModel, MeasurementJob, opener
from sweep.jobs.settings import ComputeResources
from sweep.measure.speed import TokenRates


@dataclass(frozen=True)
class MeasuredMemory:
    """See `sweep.record.Memory`. `predicted` holds the parts of llama.cpp's prediction, in bytes; None for torch."""

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
class SpeedJob(MeasurementJob[SpeedResult]):
    """Measure the speed and the memory of a model."""

    kind = "speed"
    result_type = SpeedResult
    procedure = 2
    exclusive = True

    model: MeasuredModel

    def identity(self, resources: ComputeResources) -> Any:
        return {"kind": self.kind, "procedure": self.procedure, **self.model.speed_identity(resources)}

    def run(self, site: Site) -> SpeedResult:
        from sweep.measure import speed as timing

        size = opener(self.model.opener).size(self.model, site)
        backend = site.open(self.model)
        speed = timing.measure_speed(
            backend,
            self.model.settings.ctx,
            prompt_tokens=timing.PROMPT_TOKENS,
            decode_tokens=timing.DECODE_TOKENS,
        )
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


def speed_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    return [PlannedJob("speed", SpeedJob(model.text_only))]
