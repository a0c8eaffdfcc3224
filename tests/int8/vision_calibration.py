"""Tiny vision-language models with prompts for calibration, which tests compare with transformers' whole model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel
from vision_models import whole_inputs

from int8.experts import separate_experts
from int8.samples import ImagePrompts

FAMILIES = ("qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35, multi-modal", "qwen35moe, multi-modal")


@dataclass(frozen=True)
class Made:
    directory: Path
    prompts: ImagePrompts

    def logits(self, model: PreTrainedModel) -> Tensor:
        """The logits of all prompts, by one forward pass of the whole model for each."""
        given = [whole_inputs(prompt, self.prompts.preprocessing) for prompt in self.prompts.prompts]
        with torch.inference_mode():
            return torch.cat([model(**inputs, use_cache=False).logits[0].float() for inputs in given])

    def whole(self) -> PreTrainedModel:
        """What transformers loads, with separate experts."""
        model = AutoModelForImageTextToText.from_pretrained(self.directory, dtype=torch.float32).eval()
        separate_experts(model)
        return model


def require_alike(found: Tensor, expected: Tensor, median: float = 1e-5) -> None:
    """Equal up to the order of float sums, in which a few values may be rounded the other way, or a token be sent to
    another expert."""
    difference = (found - expected).abs()
    assert difference.median() < median * expected.std()
    assert difference.mean() < 0.02 * expected.std()
