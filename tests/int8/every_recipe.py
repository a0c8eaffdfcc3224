"""Every recipe with which real int8 is compared with fake-quant, the kinds of models, and their inputs and losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

FILES = {
    "symmetric": "symmetric = true",
    "dynamic, symmetric": 'base = "w8a8-dyn"\nsymmetric = true',
    "float activations": 'activations = "float"\nvalue = "head"',
    "alpha 0": 'base = "sq"\nalpha = 0',
    "alpha 1": 'base = "sq"\nalpha = 1',
    "Q, K by tensor": 'query_key = "tensor"',
    "Q, K by head": 'query_key = "head"',
    "V by tensor": 'value = "tensor"',
    "V by channel": 'value = "channel"',
    "V by head": 'value = "head"',
    "Q, K, V symmetric": 'base = "sq-ph"\nattention_symmetric = true',
    "Q, K by tensor after RoPE": 'base = "sq"\ninsertion = "rope"',
    "Q, K by head after RoPE": 'base = "sq-ph-dyn"\ninsertion = "rope"',
    "int8 attention": 'base = "sq-ph"\ninsertion = "rope"\nint8_attention = true',
    "int8 attention, V by channel": 'base = "sq"\ninsertion = "rope"\nint8_attention = true',
    "int8 cache": 'base = "sq-ph-dyn"\nint8_kv_cache = true',
    "one fold": 'base = "sq"\nfolds = ["up->down"]',
    "percentile": 'base = "w8a8"\npercentile = 99.9',
    "more is kept": 'base = "w8a8-dyn"\nkeep = ["lm_head", "*.mlp.gate", "*.down_proj", "*in_proj_*"]',
}
"""Recipes that each set one option."""
MODELS = ("qwen3", "qwen3moe", "qwen35", "qwen35moe")
"""Tiny random models: dense, with experts, and both with three DeltaNet layers per attention layer."""


def tokens(samples: int, length: int, seed: int) -> Tensor:
    return torch.randint(1, 500, (samples, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def losses(model: PreTrainedModel, given: Tensor) -> Tensor:
    """The loss of each token except the first of a sample, float64."""
    logits = torch.cat([model(part, use_cache=False).logits for part in given.split(4)])
    found = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), given[:, 1:].flatten(), reduction="none")
    return found.double()
