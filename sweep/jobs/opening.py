"""Models opened to be measured, by kind: GGUF files in llama.cpp, checkpoints in torch."""

from __future__ import annotations

from sweep.backends.base import Backend
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.jobs.base import Site
from sweep.jobs.model import MeasuredModel


def open_gguf(model: MeasuredModel, site: Site) -> Backend:
    """A GGUF file. Raises InputError for one that llama.cpp does not load."""
    settings = model.settings
    options = LlamaOptions(
        n_batch=settings.batch,
        n_ubatch=settings.ubatch,
        type_k=settings.kv_type,
        type_v=settings.kv_type,
        n_threads=site.where.threads,
        load=settings.load,
    )
    return LlamaBackend(str(site.path(model.file)), options)


def open_torch(model: MeasuredModel, site: Site) -> Backend:
    """A checkpoint in BF16."""
    from sweep.backends.torch_checkpoints import open_float  # loads torch, which GGUF files do not need

    return open_float(site.path(model.file), _torch_device(site))


def open_int8(model: MeasuredModel, site: Site) -> Backend:
    """An int8 checkpoint, computed in int8. Raises MissingRuntime for a GPU that cannot."""
    from sweep.backends import torch_checkpoints

    return torch_checkpoints.open_int8(site.path(model.file), _torch_device(site))


def open_fq(model: MeasuredModel, site: Site) -> Backend:
    """An int8 checkpoint through int8 and back, computed in float."""
    from sweep.backends.torch_checkpoints import open_fake_quant

    return open_fake_quant(site.path(model.file), _torch_device(site))


def _torch_device(site: Site) -> str:
    """Where torch computes, after it has been told how."""
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    torch.set_num_threads(site.where.threads)
    return site.where.device("torch")
