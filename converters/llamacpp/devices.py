"""The devices that this build of llama.cpp can compute on, as reported by its backends."""

import ctypes
from dataclasses import dataclass

from converters.llamacpp.bindings import ggml, lib, start_backend

# enum ggml_backend_dev_type (ggml-backend.h)
_KINDS = {0: "cpu", 1: "gpu", 2: "integrated gpu", 3: "accelerator", 4: "meta"}


@dataclass(frozen=True)
class LlamaDevice:
    """A device. Its driver reports the bytes of memory at the time of the call."""

    name: str
    description: str
    kind: str
    free_bytes: int
    total_bytes: int


def devices() -> list[LlamaDevice]:
    """All devices in llama.cpp's order."""
    start_backend()
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [ctypes.c_size_t], ctypes.c_void_p
    return [_device(ggml.ggml_backend_dev_get(index)) for index in range(ggml.ggml_backend_dev_count())]


def gpus() -> list[LlamaDevice]:
    """Devices that layers can be loaded to, with their own memory or sharing the host's."""
    return [device for device in devices() if device.kind in ("gpu", "integrated gpu")]


def features() -> str:
    """The instruction sets and options that this build uses, in llama.cpp's words."""
    start_backend()
    return " ".join(lib.llama_print_system_info().decode(errors="replace").split())


def _device(handle: int) -> LlamaDevice:
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(ggml, name).argtypes, getattr(ggml, name).restype = [ctypes.c_void_p], ctypes.c_char_p
    ggml.ggml_backend_dev_type.argtypes, ggml.ggml_backend_dev_type.restype = [ctypes.c_void_p], ctypes.c_int
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    ggml.ggml_backend_dev_memory.restype = None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    return LlamaDevice(
        name=ggml.ggml_backend_dev_name(handle).decode(errors="replace"),
        description=ggml.ggml_backend_dev_description(handle).decode(errors="replace"),
        kind=_KINDS.get(ggml.ggml_backend_dev_type(handle), "unknown"),
        free_bytes=free.value,
        total_bytes=total.value,
    )
