"""How a model is loaded: which layers go to GPUs, whose experts stay in RAM, and what share each GPU gets.

Meanings are those of llama.cpp's `--gpu-layers`, `--n-cpu-moe` and `--tensor-split`.
"""

import ctypes
from collections.abc import Sequence
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
    """`cpu_moe` counts layers from the first; `tensor_split` has a weight for each GPU, none for llama.cpp's choice.

    `elsewhere` are patterns of tensors' names that go not to their layer's device but to another, by its number among
    those the model is loaded on, or to RAM (None). The first pattern that is found in a name decides.
    """

    gpu_layers: int = 0
    cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    elsewhere: tuple[tuple[str, int | None], ...] = ()

    def apply(self, params: lib.llama_model_params, devices: Sequence[int] = ()) -> object:
        """Set these in `params`, and the handles of the devices to use where they are not all there are.

        What is returned must live until the model is loaded. Raises InputError for more shares than llama.cpp has room
        for devices.
        """
        params.n_gpu_layers = self.gpu_layers
        room = lib.llama_max_devices()
        if len(self.tensor_split) > room:
            raise InputError(f"--tensor-split has {len(self.tensor_split)} shares; there can be {room} devices")
        split = (ctypes.c_float * room)(*self.tensor_split)
        if self.tensor_split:
            params.tensor_split = split
        chosen = (ctypes.c_void_p * (len(devices) + 1))(*devices)  # the last one is NULL and ends the list
        if devices:
            params.devices = ctypes.addressof(chosen)
        patterns = [(EXPERTS.format(layer=layer), None) for layer in range(self.cpu_moe)] + list(self.elsewhere)
        entries = [_Override(pattern.encode(), _buffer_type(place, devices)) for pattern, place in patterns]
        overrides = (_Override * (len(entries) + 1))(*entries)  # the last one is empty and ends the list
        if entries:
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        return split, chosen, overrides


def _buffer_type(place: int | None, devices: Sequence[int]) -> int:
    """The handle of a device's buffer type, or of RAM's."""
    if place is None:
        return int(ggml.ggml_backend_cpu_buffer_type())
    return int(ggml.ggml_backend_dev_buffer_type(devices[place]))


ALL_IN_RAM = LoadOptions()
