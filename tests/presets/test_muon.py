"""The optimizer that trains the built-in models, against torch's own."""

from __future__ import annotations

import torch
from torch import nn

from presets.micro.muon import Muon, orthogonal


def test_it_is_torchs_muon() -> None:
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in ((24, 16), (8, 40))]
    ours, theirs = ([nn.Parameter(one.clone()) for one in start] for _ in range(2))
    optimizers = (
        Muon(ours, weight_decay=0.1, dtype=torch.bfloat16),
        torch.optim.Muon(theirs, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        gradients = [torch.randn(one.shape, generator=generator) for one in start]
        for weights, optimizer in zip((ours, theirs), optimizers, strict=True):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, before)


def test_in_float32_singular_values_come_near_1() -> None:
    matrix = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix, torch.float32))
    assert values.dtype is torch.float32
    assert 0.5 < values.min() <= values.max() < 1.5
