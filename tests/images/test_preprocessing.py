"""The input of the vision tower equals that of transformers' image processor to the bit, in all families."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from converters.errors import InputError
from images.file import open_image
from images.preprocessing import read_preprocessing

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL": {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, **CLIP},
    "Qwen3-VL": {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16, **HALF},
    "few pixels": {"size": {"shortest_edge": 3136, "longest_edge": 40000}, "patch_size": 14, **CLIP},
    "patches of 8": {"min_pixels": 2048, "max_pixels": 20480, "patch_size": 8, **HALF},
}
COMMON = {"image_processor_type": "Qwen2VLImageProcessorFast", "temporal_patch_size": 2, "merge_size": 2}
SIZES = [(1, 1), (14, 2800), (200, 1), (28, 28), (32, 64), (42, 70), (48, 80), *[
    (lambda r: (r.randint(2, 500), r.randint(3, 500)))(random.Random(seed)) for seed in range(12)
]]  # fmt: skip


def checkpoint(directory: Path, **settings: Any) -> Path:
    (directory / "preprocessor_config.json").write_text(json.dumps({**COMMON, **settings}))
    return directory


@pytest.mark.parametrize("family", SETTINGS)
def test_patches_equal_the_image_processors(family: str, tmp_path: Path) -> None:
    preprocessing = read_preprocessing(checkpoint(tmp_path, **SETTINGS[family]))
    processor = Qwen2VLImageProcessorPil(temporal_patch_size=2, merge_size=2, **SETTINGS[family])
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        pixels = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        file = io.BytesIO()
        pixels.save(file, "PNG")
        image = open_image(file.getvalue())
        expected = processor(pixels, return_tensors="np")
        grid = preprocessing.grid(image)
        assert expected["image_grid_thw"].tolist() == [[1, 2 * grid.rows, 2 * grid.columns]], (width, height)
        patches = preprocessing.patches(preprocessing.resized(image))
        # the same filter of Pillow, and the same operations in float32: no tolerance
        assert np.array_equal(patches, expected["pixel_values"]), (width, height)


def test_the_settings_may_be_part_of_the_processors_config(tmp_path: Path) -> None:
    apart = read_preprocessing(checkpoint(tmp_path, **SETTINGS["Qwen3-VL"]))
    checkpoint(tmp_path, **SETTINGS["Qwen2.5-VL"])
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen3VLProcessor"}))
    assert read_preprocessing(tmp_path).patch == 14
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": {**COMMON, **SETTINGS["Qwen3-VL"]}, "processor_class": "Qwen3VLProcessor"})
    )
    assert read_preprocessing(tmp_path) == apart
    assert (apart.token_pixels, apart.min_pixels, apart.max_pixels) == (32, 65536, 16777216)


def test_limits_of_pixels_can_be_set(tmp_path: Path) -> None:
    limited = read_preprocessing(checkpoint(tmp_path, **SETTINGS["Qwen3-VL"])).limited(max_pixels=200704)
    assert (limited.min_pixels, limited.max_pixels) == (65536, 200704)
    assert limited.grid_of(4000, 3000).tokens <= 200704 // 1024


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "unknown image_processor_type 'CLIPImageProcessor'"),
        ({"do_resize": False}, "do_resize is False; only true is supported"),
        ({"resample": 2}, r"resample is 2; only 3 \(bicubic\)"),
        ({"patch_size": "many"}, "no number"),
        ({"size": [1, 2]}, "no number"),
        ({"patch_size": 0}, "must be positive"),
        ({"min_pixels": 9000, "max_pixels": 8000}, "min_pixels <= max_pixels"),
        ({"image_std": [1, 1]}, "three numbers"),
    ],
)
def test_settings_that_are_not_supported_are_named(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_preprocessing(checkpoint(tmp_path, **settings))
    assert str(caught.value).startswith(f"{tmp_path / 'preprocessor_config.json'}: ")


def test_a_checkpoint_without_settings_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no preprocessor_config\.json"):
        read_preprocessing(tmp_path)


def test_a_narrow_image_is_rejected_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "line.png"
    Image.new("RGB", (30000, 3)).save(path)
    with pytest.raises(InputError, match=r"line\.png: an image of 30000 x 3 pixels is too long and narrow"):
        read_preprocessing(checkpoint(tmp_path, **SETTINGS["Qwen3-VL"])).grid(open_image(path))
