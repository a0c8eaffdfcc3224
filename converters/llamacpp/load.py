"""How a model is loaded: which layers go to GPUs, which layers' experts stay in RAM, and the share of each GPU.

The options mean the same as llama.cpp's `--gpu-layers`, `--n-cpu-moe` and `--tensor-split`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from converters.errors import InputError
from converters.llamacpp.bindings import ggml, lib

EXPERTS = r"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Pattern of the tensors of a layer's experts, as in llama.cpp's own options."""


class _Override(ctypes.Structure):
    """`llama_model_tensor_buft_override`: tensors whose name contains the pattern go to that buffer type."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


@dataclass(frozen=True)
class LoadOptions:
    """Where the layers and tensors of a model go.

    - `gpu_layers`: how many layers go to GPUs, 0 for all in RAM.
    - `cpu_moe`: the number of layers, counted from the first, whose experts stay in RAM.
    - `tensor_split`: the relative share of each GPU; empty lets llama.cpp choose.
    - `mtp`: whether layers for multi-token prediction are loaded, which only speculative decoding uses.
    - `tensor_overrides`: (pattern, place) of tensors that do not go where their layer goes. The place is the index of
      one of the devices the model is loaded on, or None for RAM. The first pattern found in a tensor's name decides.
    """

    gpu_layers: int = 0
    cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    tensor_overrides: tuple[tuple[str, int | None], ...] = ()
    mtp: bool = False

    def apply(self, params: lib.llama_model_params, devices: Sequence[int] = ()) -> object:
        """Set these options in `params`. `devices` are the handles of the devices to use; empty means all.

        The caller must keep the returned object until the model is loaded. Raises InputError for more shares than
        llama.cpp supports devices.
        """
        params.n_gpu_layers = self.gpu_layers
        params.load_mtp = self.mtp
        room = lib.llama_max_devices()
        if len(self.tensor_split) > room:
            raise InputError(
                f"--tensor-split has {len(self.tensor_split)} shares, but llama.cpp supports at most {room} devices"
            )
        split = (ctypes.c_float * room)(*self.tensor_split)
        if self.tensor_split:
            params.tensor_split = split
        chosen = (ctypes.c_void_p * (len(devices) + 1))(*devices)  # the final NULL ends the list
        if devices:
            params.devices = ctypes.addressof(chosen)
        patterns = [(EXPERTS.format(layer=layer), None) for layer in range(self.cpu_moe)] + list(self.tensor_overrides)
        entries = [_Override(pattern.encode(), _buffer_type(place, devices)) for pattern, place in patterns]
        overrides = (_Override * (len(entries) + 1))(*entries)  # the final empty entry ends the list
        if entries:
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        return split, chosen, overrides


def _buffer_type(place: int | None, devices: Sequence[int]) -> int:
    """The handle of the buffer type of a device, or of RAM."""
    if place is None:
        return int(ggml.ggml_backend_cpu_buffer_type())
    return int(ggml.ggml_backend_dev_buffer_type(devices[place]))


ALL_IN_RAM = LoadOptions()
