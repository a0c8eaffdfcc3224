"""How a sweep measures: batches, contexts, threads and where layers go, the same for all of its variants."""

from __future__ import annotations

from dataclasses import dataclass

from converters.llamacpp.load import LoadOptions
from converters.llamacpp.model import ContextOptions
from sweep.defaults import DEFAULT_CONTEXT


@dataclass(frozen=True)
class Settings:
    """How everything is measured; all of it is part of each cell's hash and stands in the report.

    `window` is perplexity's context and `stride` how far windows lie apart (None: end to end), `ctx` the context that
    memory is stated for, `batch` and `ubatch` llama.cpp's logical and physical batch.
    """

    window: int = 512
    stride: int | None = None
    ctx: int = DEFAULT_CONTEXT
    batch: int = 2048
    ubatch: int = 512
    kv_type: str = "f16"
    threads: int = 1
    device: str = "cpu"
    gpu_layers: int = 0
    cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()

    @property
    def load(self) -> LoadOptions:
        """Where the weights go."""
        return LoadOptions(self.gpu_layers, self.cpu_moe, tuple(self.tensor_split))

    @property
    def context(self) -> ContextOptions:
        """The context that memory is stated for."""
        return ContextOptions(
            n_ctx=self.ctx,
            n_batch=self.batch,
            n_ubatch=self.ubatch,
            type_k=self.kv_type,
            type_v=self.kv_type,
            n_threads=self.threads,
        )
