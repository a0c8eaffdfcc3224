"""Opens torch variants for measuring: an int8 checkpoint, computed in int8 or in float, or a checkpoint in BF16."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch

import ptq.checkpoint
from int8.checkpoint import load
from int8.kv_cache import int8_cache, int8_codecs
from int8.linear import require_int8
from int8.real_int8 import to_int8
from int8.tokenizer import load_tokenizer
from sweep.backends.device_memory import DeviceGrowth
from sweep.backends.image_options import ImageOptions
from sweep.backends.resident_memory import ResidentGrowth
from sweep.backends.torch import TorchBackend, on_device


def open_int8(path: Path, device: str, images: ImageOptions | None = None) -> TorchBackend:
    """An int8 checkpoint (written by `int8.checkpoint.save`), computed in int8. With `images`, here and below, its
    vision tower is loaded, and prompts may have images.

    Raises InputError if it cannot be loaded, MissingRuntime if the GPU does not support int8.
    """
    require_int8(torch.device(device))
    return _open(path, device, images, real=True)


def open_fake_quant(path: Path, device: str, images: ImageOptions | None = None) -> TorchBackend:
    """An int8 checkpoint as fake-quant: values are rounded to int8 but computed in float. Raises InputError."""
    return _open(path, device, images, real=False)


def open_float(path: Path, device: str, images: ImageOptions | None = None) -> TorchBackend:
    """A Hugging Face checkpoint, computed in BF16. Raises InputError."""
    return TorchBackend.open(path, dtype="bfloat16", device=device, images=images)


def open_dequantized(path: Path, device: str, images: ImageOptions | None = None) -> TorchBackend:
    """A checkpoint that the package ptq quantized, with dequantized weights, computed in BF16. Raises InputError."""
    growth, device_growth, began = _growth(path, device)
    tokenizer = load_tokenizer(path)
    model = on_device(ptq.checkpoint.load(path, images=images is not None)[0], device)
    return TorchBackend(model, tokenizer, growth, device_growth, time.perf_counter() - began, images=images)


def _open(path: Path, device: str, images: ImageOptions | None, *, real: bool) -> TorchBackend:
    growth, device_growth, began = _growth(path, device)
    tokenizer = load_tokenizer(path)
    model, recipe = load(path, images=images is not None)
    model = on_device(model, device)
    if real:
        model = to_int8(model, recipe)
    seconds = time.perf_counter() - began
    codecs, new_cache = int8_codecs(model, recipe), partial(int8_cache, model, recipe)
    return TorchBackend(
        model, tokenizer, growth, device_growth, seconds, codecs=codecs, new_cache=new_cache, images=images
    )


def _growth(path: Path, device: str) -> tuple[ResidentGrowth, DeviceGrowth | None, float]:
    """What measures the memory that opening a checkpoint takes, and the time now."""
    growth = ResidentGrowth(sorted(path.glob("*.safetensors")))
    return growth, DeviceGrowth() if torch.device(device).type == "cuda" else None, time.perf_counter()
