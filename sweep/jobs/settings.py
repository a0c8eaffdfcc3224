"""How a sweep measures, and the threads and devices that compute: the same for all of its variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from converters.llamacpp.load import LoadOptions
from converters.llamacpp.model import ContextOptions
from sweep.defaults import DEFAULT_CONTEXT
from sweep.kv_cache import KVCache


@dataclass(frozen=True)
class Settings:
    """The settings of measurements. They are part of the keys of results and are shown in the report.

    - `window`: tokens per window of the perplexity text; `stride`: tokens from one window to the next (None: `window`).
    - `ctx`: the context, in tokens, that the memory is computed and measured for.
    - `batch`, `ubatch`: llama.cpp's logical and physical batch, in tokens.
    - `kv_type`: the type of the KV cache, or those of K and of V, as KVCache writes them; for torch, its own name.
    - `gpu_layers`: the number of layers on GPUs; `cpu_moe`: the number of layers whose experts stay in RAM;
      `tensor_split`: the share of each GPU (empty: llama.cpp decides).
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
        """Where llama.cpp puts the weights."""
        return LoadOptions(self.gpu_layers, self.cpu_moe, self.tensor_split)

    @property
    def kv_cache(self) -> KVCache:
        """The types of llama.cpp's KV cache."""
        return KVCache.parse(self.kv_type)

    def with_cache(self, cache: KVCache) -> Settings:
        return replace(self, kv_type=str(cache))

    def context(self, threads: int = 1) -> ContextOptions:
        """The llama.cpp context that the memory is computed for."""
        return ContextOptions(
            n_ctx=self.ctx,
            n_batch=self.batch,
            n_ubatch=self.ubatch,
            type_k=self.kv_cache.k,
            type_v=self.kv_cache.v,
            n_threads=threads,
        )


@dataclass(frozen=True)
class ComputeResources:
    """The number of threads, and the device of each engine ("llama.cpp", "torch") by the engine's name for it: "cpu",
    "CUDA0".

    The executor decides them for each job. A plan has them too, because results depend on the device.
    """

    threads: int = 1
    devices: Mapping[str, str] = field(default_factory=dict)

    def device(self, engine: str) -> str:
        return self.devices.get(engine, "cpu")
