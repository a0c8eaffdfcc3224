"""Tokens of images and compute buffers of vision towers equal those of llama.cpp's multi-modal library."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from checkpoints import make_tokenizer
from llama_cpp import mtmd_cpp

from converters.errors import InputError
from converters.export import Export, export_all, open_source
from converters.llamacpp import log
from converters.llamacpp.bindings import lib
from converters.projector_source import ProjectorSource
from sweep.fit.fit_report import FitOptions
from sweep.fit.image_tokens import ImageSize
from sweep.fit.projector import projector_fit

SIZES = (
    *((1280, 960), (1, 1), (16, 16), (32, 2000), (1999, 33), (48, 48), (80, 112), (112, 80), (3000, 2000)),
    *((4096, 3072), (10_000, 64), (2049, 2047), (8192, 8192), (100, 46_000), (333, 777), (240, 240)),
)
"""Widths and heights in pixels: ordinary images, halves between two tokens, images below and above the limits."""


@pytest.fixture(scope="module", params=["qwen3vl", "qwen2vl"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The text model and the projector file of a tiny model."""
    directory = tmp_path_factory.mktemp(request.param)
    model = families.make_with_tower(request.param, directory / "model", dtype=torch.bfloat16)
    make_tokenizer(model)
    source = open_source(model)
    text, projector = directory / "text.gguf", directory / "mmproj-F16.gguf"
    export_all([Export(source, {"BF16": text}), Export(ProjectorSource(source), {"F16": projector})])
    return text, projector


@contextmanager
def opened(files: tuple[Path, Path], flash_attention: int = -1) -> Iterator[int]:
    """libmtmd's context for the files; compute buffers are made for the first image."""
    model = lib.llama_model_load_from_file(str(files[0]).encode(), lib.llama_model_default_params())
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu, params.warmup, params.print_timings, params.n_threads = False, False, False, 1
    params.flash_attn_type = flash_attention
    mtmd_cpp._libmtmd.mtmd_log_set(log.callback, ctypes.c_void_p(0))
    context = mtmd_cpp.mtmd_init_from_file(str(files[1]).encode(), model, params)
    try:
        yield context
    finally:
        mtmd_cpp.mtmd_free(context)
        lib.llama_model_free(model)


@contextmanager
def chunk(context: int, width: int, height: int, pixels: object = None) -> Iterator[int]:
    """The chunk of an image in a prompt."""
    bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, pixels)
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    marker = mtmd_cpp.mtmd_default_marker()
    text = mtmd_cpp.mtmd_input_text(marker, len(marker), False, True)
    bitmaps = (ctypes.c_void_p * 1)(bitmap)
    try:
        assert mtmd_cpp.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
        every = [mtmd_cpp.mtmd_input_chunks_get(chunks, i) for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks))]
        (image,) = [one for one in every if mtmd_cpp.mtmd_input_chunk_get_type(one) == 1]
        yield image
    finally:
        mtmd_cpp.mtmd_input_chunks_free(chunks)
        mtmd_cpp.mtmd_bitmap_free(bitmap)


def fit(files: tuple[Path, Path], *images: ImageSize, flash_attention: bool | None = None):  # type: ignore[no-untyped-def]
    options = FitOptions(images=images, mmproj=str(files[1]), flash_attention=flash_attention)
    return projector_fit(open_source(files[0]), "the model", options)


def test_tokens_of_an_image_are_those_of_llama_cpp(files: tuple[Path, Path]) -> None:
    found = fit(files, *(ImageSize(width, height, 2) for width, height in SIZES))
    with opened(files) as context:
        expected = []
        for width, height in SIZES:
            with chunk(context, width, height) as image:
                expected.append(mtmd_cpp.mtmd_input_chunk_get_n_tokens(image))
    assert [image.tokens for image in found.images] == expected
    assert found.tokens == 2 * sum(expected)
    assert max(expected) > 4000  # the limit of 4096
    assert min(expected) < 10  # of 8


@pytest.mark.parametrize(("flash_attention", "type_"), [(True, 1), (False, 0)])
def test_the_compute_buffer_grows_as_llama_cpps_does(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, flash_attention: bool, type_: int
) -> None:
    """Real encodings of two images, one of four times the patches of the other; the formula starts from the smaller."""
    sides = (24, 48)  # patches
    patch = 14 if "qwen2vl" in str(files[0]) else 16
    measured = []
    for side in sides:
        pixels = np.zeros((side * patch, side * patch, 3), np.uint8)
        with opened(files, type_) as context, chunk(context, *pixels.shape[:2], pixels.ctypes.data_as(
            ctypes.POINTER(ctypes.c_uint8)
        )) as image, log.capture() as captured:  # fmt: skip
            assert mtmd_cpp.mtmd_encode_chunk(context, image) == 0
        measured.append(sum(map(float, re.findall(r"compute buffer size = +([\d.]+) MiB", captured.text))) * 2**20)
    monkeypatch.setattr("sweep.fit.projector.RESERVED_PATCHES", sides[0] ** 2)
    monkeypatch.setattr("sweep.fit.projector.projector_memory", lambda *_: int(measured[0]))
    scaled = fit(files, ImageSize(sides[1] * patch, sides[1] * patch), flash_attention=flash_attention).compute_bytes
    assert scaled == pytest.approx(measured[1], rel=0.02)


def test_a_smaller_image_takes_the_buffer_that_llama_cpp_reserves(files: tuple[Path, Path]) -> None:
    assert fit(files, ImageSize(320, 240)).compute_bytes == fit(files).compute_bytes > 0


@pytest.mark.parametrize("numbers", [(0, 10), (10, 46_001), (10, 10, 0), (10, 10, 10_001)])
def test_sizes_that_no_image_has_are_rejected(numbers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"--image .*x.*: "):
        ImageSize(*numbers)
