"""Bytes of the vision encoder equal those of transformers' model, whose weights are counted but not allocated."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_configs import write_config
from transformers import AutoConfig, AutoModelForImageTextToText

from converters.errors import InputError
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import FitOptions
from sweep.fit.hardware import Device
from sweep.fit.projector import projector_figure

CONFIGS = Path(__file__).parents[4] / "shared" / "reference" / "configs"
GPU = Device("a gpu", "cuda", 24 << 30, 24 << 30, 1e12, True, 1 << 30)
VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 160,
    "in_channels": 3,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 64,
    "out_hidden_size": 256,
    "num_heads": 4,
    "deepstack_visual_indexes": [1],
}


def counted(config: Any) -> int:
    """Bytes of the vision model: two per weight of a matrix, four per weight of a vector."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return sum(p.numel() * (2 if p.dim() > 1 else 4) for p in model.model.visual.parameters())


@pytest.mark.parametrize("indexes", [[], [1], [0, 2]])
def test_bytes_of_a_small_encoder_are_exact(indexes: list[int]) -> None:
    vision = {**VISION, "deepstack_visual_indexes": indexes}
    text = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 512, "head_dim": 64}
    config = AutoConfig.for_model("qwen3_vl", vision_config=vision, text_config=text)
    assert projector_figure({"vision_config": vision}, "m").bytes == counted(config)


@pytest.mark.skipif(not CONFIGS.is_dir(), reason="the published configs are not here")
@pytest.mark.parametrize("name", ["Qwen3-VL-4B-Instruct", "Qwen3.5-27B", "Qwen3.6-35B-A3B"])
def test_bytes_of_published_encoders_are_exact(name: str) -> None:
    published = json.loads((CONFIGS / f"{name}.json").read_text())
    assert projector_figure(published, name).bytes == counted(AutoConfig.for_model(**{**published}))


def test_the_projector_counts_on_the_first_device_and_in_the_verdict(tmp_path: Path) -> None:
    directory = write_config(tmp_path / "model", "qwen35", vision_config=VISION)
    (without,) = fit_model(str(directory), ["Q4_K_M"], [GPU], FitOptions(512)).rows
    (with_projector,) = fit_model(str(directory), ["Q4_K_M"], [GPU], FitOptions(512, projector=True)).rows
    size = projector_figure({"vision_config": VISION}, "m").bytes
    assert with_projector.figures["projector"].bytes == size
    assert with_projector.figures["weights"] == without.figures["weights"]
    assert with_projector.total_bytes - without.total_bytes == size
    assert without.shares[0].free_bytes - with_projector.shares[0].free_bytes == size


def test_a_config_without_a_vision_encoder_is_rejected() -> None:
    with pytest.raises(InputError, match="vision encoder"):
        fit_model("Qwen3-4B", ["Q4_K_M"], [GPU], FitOptions(512, projector=True))
