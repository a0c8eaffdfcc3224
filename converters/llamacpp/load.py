"""How a model is loaded: which layers go to GPUs, whose experts stay in RAM, and what share each GPU gets.

Meanings are those of llama.cpp's `--gpu-layers`, `--n-cpu-moe` and `--tensor-split`.
"""

import ctypes
from dataclasses import dataclass

from converters.errors import InputError
from converters.llamacpp.bindings import ggml, lib

EXPERTS = r"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Tensors of a layer's experts, as llama.cpp's own options name them."""


class _Override(ctypes.Structure):
    """`llama_model_tensor_buft_override`: tensors whose name the pattern is found in go to that buffer type."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


@dataclass(frozen=True)
class LoadOptions:
    """`cpu_moe` counts layers from the first; `tensor_split` has a weight for each GPU, none for llama.cpp's choice."""

    gpu_layers: int = 0
    cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()

    def apply(self, params: lib.llama_model_params) -> object:
        """Set these in `params`. What is returned must live until the model is loaded.

        Raises InputError for more shares than llama.cpp has room for devices.
        """
        params.n_gpu_layers = self.gpu_layers
        devices = lib.llama_max_devices()
        if len(self.tensor_split) > devices:
            raise InputError(f"--tensor-split has {len(self.tensor_split)} shares; there can be {devices} devices")
        split = (ctypes.c_float * devices)(*self.tensor_split)
        if self.tensor_split:
            params.tensor_split = split
        ram = ggml.ggml_backend_cpu_buffer_type()
        entries = [_Override(EXPERTS.format(layer=layer).encode(), ram) for layer in range(self.cpu_moe)]
        overrides = (_Override * (len(entries) + 1))(*entries)  # the last one is empty and ends the list
        if entries:
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        return split, overrides


ALL_IN_RAM = LoadOptions()
