"""Writes a trained micro-vl as a Hugging Face directory: weights, tokenizer, chat template, image processor."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration

from presets.micro import tokenizer as vocabulary
from presets.micro_vl import shape

MIN_TOKENS, MAX_TOKENS = 8, 64  # of an image

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save(model: Qwen3VLForConditionalGeneration, words: Tokenizer, directory: Path) -> None:
    """Write the directory with weights in BF16."""
    model.to(torch.bfloat16).save_pretrained(directory)
    vocabulary.save(words, directory)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    unit = (shape.PATCH * shape.MERGE) ** 2
    settings = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": shape.PATCH,
        "merge_size": shape.MERGE,
        "temporal_patch_size": shape.FRAMES,
        "size": {"shortest_edge": MIN_TOKENS * unit, "longest_edge": MAX_TOKENS * unit},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
