"""How a sweep measures, and on what: the same for all of its variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from converters.llamacpp.load import LoadOptions
from converters.llamacpp.model import ContextOptions
from sweep.defaults import DEFAULT_CONTEXT


@dataclass(frozen=True)
class Settings:
    """What is part of each measurement's key and stands in the report.

    `window` is perplexity's context in tokens and `stride` how far windows lie apart (None: end to end), `ctx` the
    context that memory is stated for, `batch` and `ubatch` llama.cpp's logical and physical batch, `gpu_layers` how
    many layers go to GPUs and `cpu_moe` of how many the experts stay in RAM.
    """

    window: int = 512
    stride: int | None = None
    ctx: int = DEFAULT_CONTEXT
    batch: int = 2048
    ubatch: int = 512
    kv_type: str = "f16"
    gpu_layers: int = 0
    cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()

    @property
    def load(self) -> LoadOptions:
        """Where the weights go."""
        return LoadOptions(self.gpu_layers, self.cpu_moe, self.tensor_split)

    def context(self, threads: int = 1) -> ContextOptions:
        """The context that memory is stated for."""
        return ContextOptions(
            n_ctx=self.ctx,
            n_batch=self.batch,
            n_ubatch=self.ubatch,
            type_k=self.kv_type,
            type_v=self.kv_type,
            n_threads=threads,
        )


@dataclass(frozen=True)
class Where:
    """What computes: so many threads, and what each engine ("llama.cpp", "torch") calls its device: "cpu", "CUDA0".

    It is settled where a job runs. A plan knows where its executor will run jobs, since results depend on the device.
    """

    threads: int = 1
    devices: Mapping[str, str] = field(default_factory=dict)

    def device(self, engine: str) -> str:
        return self.devices.get(engine, "cpu")
