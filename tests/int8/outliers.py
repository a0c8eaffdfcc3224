"""Adds outlier channels to a model without changing what it computes; large trained models have such channels.

Channels are scaled up in one weight and down in all that reads them. A row of the folds' table says which weights
belong together, so it says this too; for Q and K the norm behind the projection undoes any scale of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from int8.fakequant import attentions
from int8.fold import apply_fold, fold_rules
from int8.model import decoder_of
from int8.recipe import ALL_FOLDS, Fold


def add_outliers(model: nn.Module, factor: float = 100.0, channels: int = 8, seed: int = 0) -> None:
    """Scale `channels` channels of every producer in every layer by `factor`."""
    generator = torch.Generator().manual_seed(seed)
    decoder = decoder_of(model)
    for layer in decoder.layers:
        for row in fold_rules(layer, decoder.model_type, ALL_FOLDS):
            width = len(layer.get_submodule(row.producer).weight)
            scales = torch.ones(width)
            scales[torch.randperm(width, generator=generator)[:channels]] = 1 / factor
            apply_fold(layer, row, scales)


def spread_value_heads(model: nn.Module, factors: Sequence[float]) -> None:
    """Scale V of each KV head by its factor, and undo it in o_proj."""
    decoder = decoder_of(model)
    for layer in decoder.layers:
        for row in fold_rules(layer, decoder.model_type, (Fold.V_O,)):
            width = len(layer.get_submodule(row.producer).weight) // len(factors)
            apply_fold(layer, row, 1 / torch.tensor(factors).repeat_interleave(width))


@torch.no_grad()
def scale_query_key_head(model: nn.Module, factor: float, head: int = 0) -> None:
    """Scale the Q rows of one query head and the K rows of one KV head in every layer; q_norm and k_norm undo it."""
    for attention, _ in attentions(model):
        width = attention.head_dim
        rows_each = len(attention.q_proj.weight) // attention.config.num_attention_heads  # with or without a gate
        attention.q_proj.weight[head * rows_each : head * rows_each + width] *= factor
        attention.k_proj.weight[head * width : (head + 1) * width] *= factor
