"""The predicted sizes of variants that torch runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import presets
from sweep.jobs.settings import Settings
from sweep.jobs.sizes import checkpoint_size

MICRO = presets.builtin_models()["micro"]


def test_the_float_model_has_16_bits_whatever_dtype_its_files_have(tmp_path: Path) -> None:
    wide = Path(shutil.copytree(MICRO.directory, tmp_path / "wide"))
    weights = load_file(wide / "model.safetensors")
    save_file({name: x.float() for name, x in weights.items()}, wide / "model.safetensors", {"format": "pt"})
    for directory in (MICRO.directory, wide):
        size = checkpoint_size(str(directory), "micro", "torch", None, Settings(kv_type="bf16"))
        assert size.bits_per_weight == 16
        assert size.file_bytes == 2 * sum(x.numel() for x in weights.values())
    assert {x.dtype for x in weights.values()} == {torch.bfloat16}
    assert size.file_bytes == pytest.approx((wide / "model.safetensors").stat().st_size / 2, rel=1e-2)
