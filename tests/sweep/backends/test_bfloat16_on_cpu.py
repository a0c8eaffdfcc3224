"""Linear layers in bfloat16 on CPUs without instructions for it, against exact products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sweep.backends import bfloat16_on_cpu
from sweep.backends.bfloat16_on_cpu import WidenedLinear, widen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 3, 4, 50])
def test_the_output_is_the_exact_product_rounded(tokens: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16_on_cpu, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(bfloat16_on_cpu, "BLOCK", 64 * 7)  # several blocks, the last one narrower
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 30, bias=bias).to(torch.bfloat16), nn.Linear(30, 4))
    x = torch.randn(tokens, 64).to(torch.bfloat16)
    linear = model[0]
    exact = x.double() @ linear.weight.double().T + (linear.bias.double() if bias else 0)
    widen(model)
    assert type(linear) is WidenedLinear
    assert type(model[1]) is nn.Linear  # float32
    found = linear(x)
    assert found.dtype is torch.bfloat16
    assert found.shape == exact.shape
    # half a unit in the last of bfloat16's 8 digits, and the rounding of the float32 sums
    assert torch.all((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5)


def test_nothing_is_changed_on_a_cpu_that_multiplies_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16_on_cpu, "multiplies_bfloat16", lambda: True)
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.bfloat16))
    widen(model)
    assert type(model[0]) is nn.Linear
