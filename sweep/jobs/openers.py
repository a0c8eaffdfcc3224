"""The functions that open models for measurements: GGUF files in llama.cpp, checkpoints in torch."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from int8.architectures import is_speech
from sweep.backends.base import Backend
from sweep.backends.image_options import ImageOptions
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.jobs.base import Site
from sweep.jobs.model import MeasuredModel


def open_gguf(model: MeasuredModel, site: Site) -> Backend:
    """Open a GGUF file. Raises InputError if llama.cpp cannot load it."""
    settings = model.settings
    options = LlamaOptions(
        n_batch=settings.batch,
        n_ubatch=settings.ubatch,
        type_k=settings.kv_cache.k,
        type_v=settings.kv_cache.v,
        n_threads=site.resources.threads,
        load=settings.load,
        images=_images(model, site),
    )
    return LlamaBackend(str(site.path(model.file)), options)


def open_torch(model: MeasuredModel, site: Site) -> Backend:
    """Open a checkpoint in BF16; a speech model in float32."""
    from sweep.backends.torch_checkpoints import open_float  # loads torch, which GGUF files do not need

    if is_speech(path := site.path(model.file)):
        return _open_speech(path, site)
    return open_float(site.path(model.file), _torch_device(site), _images(model, site))


def open_int8(model: MeasuredModel, site: Site) -> Backend:
    """Open an int8 checkpoint and multiply in int8. Raises MissingRuntime if the GPU cannot."""
    from sweep.backends import torch_checkpoints

    if is_speech(path := site.path(model.file)):
        return _open_speech(path, site)
    return torch_checkpoints.open_int8(site.path(model.file), _torch_device(site), _images(model, site))


def open_fq(model: MeasuredModel, site: Site) -> Backend:
    """Open an int8 checkpoint as fake-quant: values are rounded to int8, but multiplied in float."""
    from sweep.backends.torch_checkpoints import open_fake_quant

    if is_speech(path := site.path(model.file)):
        return _open_speech(path, site, real=False)
    return open_fake_quant(site.path(model.file), _torch_device(site), _images(model, site))


def open_ptq(model: MeasuredModel, site: Site) -> Backend:
    """Open a checkpoint that the package ptq quantized, with dequantized weights."""
    from sweep.backends.torch_checkpoints import open_dequantized

    return open_dequantized(site.path(model.file), _torch_device(site), _images(model, site))


def _open_speech(path: Path, site: Site, *, real: bool = True) -> Backend:
    """A speech model. Jobs of speech measure it, which know that it is a SpeechBackend."""
    from sweep.backends.speech import open_speech

    return cast(Backend, open_speech(path, _torch_device(site), real=real))


def _images(model: MeasuredModel, site: Site) -> ImageOptions | None:
    return None if model.images is None else model.images.options(site)


def _torch_device(site: Site) -> str:
    """Set torch's number of threads, and return the name of the device that it computes on."""
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    torch.set_num_threads(site.resources.threads)
    return site.resources.device("torch")
