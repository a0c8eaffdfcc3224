"""The jobs that measure speed in tokens per second, at the beginning of a context and after other tokens; memory,
predicted and measured while the model is loaded and decodes; and, where speed is not measured, the size alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep import format as fmt
from sweep.defaults import SPEED_SECONDS
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
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return f"{fmt.rate(self.speed.decode_tokens_per_s)} t/s"


@dataclass(frozen=True)
class SpeedJob(MeasurementJob[SpeedResult]):
    """Measure the speed and the memory of a model. `seconds` is the time for repeats of the timings."""

    kind = "speed"
    result_type = SpeedResult
    procedure = 2
    exclusive = True

    model: MeasuredModel
    seconds: float = SPEED_SECONDS

    def identity(self, resources: ComputeResources) -> Any:
        own = _seconds_identity(self.seconds)
        return {"kind": self.kind, "procedure": self.procedure, **self.model.speed_identity(resources), **own}

    def run(self, site: Site) -> SpeedResult:
        from sweep.measure import speed as timing

        size = opener(self.model.opener).size(self.model, site)
        backend = site.open(self.model)
        speed = timing.measure_speed(
            backend,
            self.model.settings.ctx,
            prompt_tokens=timing.PROMPT_TOKENS,
            decode_tokens=timing.DECODE_TOKENS,
            seconds=self.seconds,
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
            notes=_shortened(speed),
        )


def speed_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    opened, seconds = model.text_only, inputs.speed_seconds
    deep = (PlannedJob(f"speed at {depth}", DepthJob(opened, depth, seconds)) for depth in inputs.depths)
    return [PlannedJob("speed", SpeedJob(opened, seconds)), *deep]


@dataclass(frozen=True)
class DepthResult(Result):
    speed: TokenRates
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return f"{fmt.rate(self.speed.decode_tokens_per_s)} t/s"


@dataclass(frozen=True)
class DepthJob(MeasurementJob[DepthResult]):
    """Measure the speed of a model after `depth` tokens, in a context that has room for them."""

    kind = "depth"
    result_type = DepthResult
    exclusive = True

    model: MeasuredModel
    depth: int
    seconds: float = SPEED_SECONDS

    def identity(self, resources: ComputeResources) -> Any:
        own = {"depth": self.depth, **_seconds_identity(self.seconds)}
        return {"kind": self.kind, "procedure": self.procedure, **self.model.speed_identity(resources), **own}

    @property
    def timing_group(self) -> str:
        return str(self.depth)

    def run(self, site: Site) -> DepthResult:
        from sweep.measure import speed as timing

        speed = timing.measure_speed(
            site.open(self.model),
            self.model.settings.ctx,
            prompt_tokens=timing.PROMPT_TOKENS,
            decode_tokens=timing.DECODE_TOKENS,
            seconds=self.seconds,
            depth=self.depth,
        )
        return DepthResult(speed, _shortened(speed))


@dataclass(frozen=True)
class SizeResult(Result):
    """The size of a model that exists, and its predicted memory."""

    file_bytes: int
    bits_per_weight: float
    memory_bytes: int

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


@dataclass(frozen=True)
class SizeJob(MeasurementJob[SizeResult]):
    """Read the size of a model, and predict its memory, without loading it."""

    kind = "size"
    result_type = SizeResult
    weight = 0.1

    model: MeasuredModel

    def identity(self, resources: ComputeResources) -> Any:
        return {"kind": self.kind, "procedure": self.procedure, **self.model.speed_identity(resources)}

    def run(self, site: Site) -> SizeResult:
        size = opener(self.model.opener).size(self.model, site)
        return SizeResult(size.file_bytes, size.bits_per_weight, size.memory_bytes)


def size_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    return [PlannedJob("size", SizeJob(model.text_only))]


def _seconds_identity(seconds: float) -> dict[str, float]:
    """The part of a key; empty for the default, so that keys of earlier results stay."""
    return {} if seconds == SPEED_SECONDS else {"seconds": seconds}


def _shortened(speed: TokenRates) -> tuple[str, ...]:
    if not speed.shortened:
        return ()
    return (
        f"the model is slow, so each timing is of {speed.prompt_tokens} tokens of a prompt and {speed.decode_tokens} "
        "decoded tokens; --speed-seconds gives it more time",
    )
