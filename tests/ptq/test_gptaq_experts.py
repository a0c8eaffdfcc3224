"""GPTAQ's correction of experts, by brute force: token by token, with the routes of the quantized model."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from checkpoints import make_tokenizer
from families import make
from torch import Tensor, nn

from int8.experts import Expert, Experts
from int8.quantize_model import CalibrationText
from ptq.checkpoint import read_report
from ptq.hessian import InputRecorder
from ptq.quantize import quantize
from ptq.recipe import recipe

WIDTH, INNER, TOKENS, EXPERTS = 6, 4, 40, 3


class Layer(nn.Module):
    """A layer that is only experts, with routes that are given."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.experts = Experts(
            Expert(torch.randn(INNER, WIDTH), torch.randn(INNER, WIDTH), torch.randn(WIDTH, INNER), nn.SiLU())
            for _ in range(EXPERTS)
        )

    def forward(self, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        out: Tensor = self.mlp.experts(hidden, chosen, shares)
        return out


@torch.no_grad()
def test_experts_are_corrected_for_the_tokens_that_the_quantized_model_sends_them() -> None:
    torch.manual_seed(0)
    layer = Layer()
    names = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
    recorder = InputRecorder(layer, names, "layer")
    expected = {name: torch.zeros(WIDTH, WIDTH) if "down" not in name else torch.zeros(INNER, INNER) for name in names}
    counted = dict.fromkeys(names, 0)
    with ExitStack() as stack:
        recorder.attach(stack)
        for _ in range(2):  # batches
            exact, rounded = torch.randn(2, TOKENS, WIDTH)
            routes = [torch.stack([torch.randperm(EXPERTS)[:2] for _ in range(TOKENS)]) for _ in range(2)]
            assert not torch.equal(*routes)
            shares = torch.rand(TOKENS, 2)
            with recorder.of_unquantized():
                layer(exact, routes[0], shares)
            layer(rounded, routes[1], shares)
            for x_float, x, chosen in zip(exact, rounded, routes[1], strict=True):
                for number in chosen.tolist():
                    expert = layer.mlp.experts[number]
                    gate, up = expert.gate_proj.weight, expert.up_proj.weight  # calls would be counted
                    inner = [expert.act_fn(gate @ one) * (up @ one) for one in (x_float, x)]
                    for part, (one, other) in (
                        ("gate_proj", (x_float, x)),
                        ("up_proj", (x_float, x)),
                        ("down_proj", inner),
                    ):
                        name = f"mlp.experts.{number}.{part}"
                        expected[name] += torch.outer(one - other, other)
                        counted[name] += 1
        few = torch.randn(3, WIDTH)
        layer.mlp.experts[0](few)  # tokens in addition count, and have no correction
    for name in names:
        shift = recorder.sums[name].shift
        assert shift is not None
        assert shift == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name
        assert recorder.sums[name].tokens == counted[name] + 3 * (".experts.0." in name)


@pytest.mark.parametrize("name", ["gptq+a:w4g16", "gptq:w4g16"])
def test_progress_ends_and_every_expert_is_counted_once(name: str, tmp_path: Path) -> None:
    make("qwen3moe", tmp_path / "model", dtype=torch.bfloat16)
    make_tokenizer(tmp_path / "model")
    text = CalibrationText("a text", lambda _: " ".join(f"word{i % 97} {i * 31 % 11}" for i in range(2000)))
    seen: list[tuple[int, int]] = []
    quantize(
        tmp_path / "model", recipe(name), text, tmp_path / "out", count=4, length=32,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)
    for layer in read_report(tmp_path / "out")["layers"].values():
        assert sum(layer["expert_tokens"]) == 2 * 4 * 32  # two experts for each token
