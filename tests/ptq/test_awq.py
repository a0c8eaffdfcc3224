"""AWQ's scales and ranges are the best of their candidates, and the scales keep the function of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from families import make
from torch import Tensor, nn

from int8.architectures import FoldRule, ProducerKind, Spread
from int8.expert_tokens import ExpertTokens
from int8.fold import apply_fold, fold_rules
from int8.layer_inputs import LayerInputs, ProgressCounter
from int8.model import decoder_of, open_model
from int8.recipe import ALL_FOLDS, Fold
from ptq.awq import (
    PUBLISHED,
    WITH_WEIGHTS,
    ScaleSearch,
    awq_scales,
    clip_limits,
    clipped,
    compared_module,
    is_clipped,
    output_loss,
)
from ptq.gptq import layer_error
from ptq.grid import round_to_nearest
from ptq.hessian import InputRecorder, InputSums
from ptq.module_calls import ModuleCalls
from ptq.recipe import Grid

WIDTH, TOKENS = 32, 96
GRID = Grid(3, 16)
NORM = FoldRule(Fold.NORM_GATE_UP, "norm", ("mlp.gate", "mlp.up"), ProducerKind.NORM)
FEW = ScaleSearch((0.3, 0.7))
BOTH = {"mlp.gate", "mlp.up"}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Layer(nn.Module):
    """A norm that two linear layers read."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(WIDTH), nn.Module()
        for number, name in enumerate(("gate", "up")):
            linear = nn.Linear(WIDTH, 24, bias=False)
            linear.weight.data = random(24, WIDTH, seed=seed + number)
            self.mlp.add_module(name, linear)


def inputs(outliers: float = 20, seed: int = 7) -> Tensor:
    """Tokens [TOKENS, WIDTH], with three channels that are larger."""
    x = random(TOKENS, WIDTH, seed=seed)
    x[:, [3, 9, 20]] *= outliers
    return x


def sums_of(x: Tensor) -> InputSums:
    found = InputSums.empty(x.shape[1], x.device)
    found.add(x)
    return found


def rounded(weight: Tensor, scales: Tensor, grid: Grid = GRID) -> Tensor:
    return round_to_nearest(weight * scales, grid, torch.float32).dequantized() / scales


def output_error(x: Tensor, weight: Tensor, changed: Tensor) -> float:
    """The squared error of the outputs, from the tokens, in float64."""
    return float((x.double() @ (changed - weight).double().T).square().sum())


def brute_force(x: Tensor, weights: list[Tensor], grid: Grid) -> Tensor:
    """The published scales with the smallest error, one candidate after the other."""
    tried = []
    for step in range(20):
        scales = x.abs().mean(0).pow(step / 20).clamp(min=1e-4)
        scales = scales / (scales.max() * scales.min()).sqrt()
        tried.append((sum(output_error(x, weight, rounded(weight, scales, grid)) for weight in weights), step, scales))
    return min(tried)[2]


@pytest.mark.parametrize("grid", [GRID, Grid(4), Grid(2, 16, symmetric=True)])
@pytest.mark.parametrize("outliers", [1.0, 5.0, 40.0])
@torch.no_grad()
def test_the_best_of_the_published_scales_is_found(grid: Grid, outliers: float):
    layer, x = Layer(), inputs(outliers)
    sums = sums_of(x)
    found = awq_scales(layer, NORM, dict.fromkeys(BOTH, sums), grid, BOTH, torch.float32)
    expected = brute_force(x, [layer.mlp.gate.weight, layer.mlp.up.weight], grid)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@torch.no_grad()
def test_with_outlier_channels_the_error_is_far_below_that_of_plain_rounding():
    for seed in range(4):
        layer, x = Layer(seed), inputs(seed=seed + 10)
        sums = sums_of(x)
        scales = awq_scales(layer, NORM, dict.fromkeys(BOTH, sums), GRID, BOTH, torch.float32)
        for linear in (layer.mlp.gate, layer.mlp.up):
            plain, scaled = (
                layer_error(linear.weight, rounded(linear.weight, one), sums.hessian)
                for one in (torch.ones(WIDTH), scales)
            )
            assert scaled < 0.5 * plain


@torch.no_grad()
def test_the_error_is_never_above_that_of_plain_rounding():
    """Not even where the scales of large channels harm, because one of these is where the weights are smallest."""
    chosen = 0
    for seed in range(12):
        layer, x = Layer(seed), inputs(outliers=0.5 + seed / 4, seed=seed)
        sums = sums_of(x)
        for search in (PUBLISHED, WITH_WEIGHTS):
            scales = awq_scales(layer, NORM, {"mlp.up": sums}, GRID, {"mlp.up"}, torch.float32, search=search)
            weight = layer.mlp.up.weight
            plain = layer_error(weight, rounded(weight, torch.ones(WIDTH)), sums.hessian)
            assert layer_error(weight, rounded(weight, scales), sums.hessian) <= plain
            chosen += not torch.equal(scales, torch.ones(WIDTH))
    assert chosen > 12


@torch.no_grad()
def test_layers_that_stay_float_do_not_influence_the_scales():
    layer, sums = Layer(), sums_of(inputs())
    alone = awq_scales(layer, NORM, {"mlp.up": sums}, GRID, {"mlp.up"}, torch.float32)
    layer.mlp.gate.weight.mul_(random(24, WIDTH, seed=3) * 100)
    assert torch.equal(awq_scales(layer, NORM, {"mlp.up": sums}, GRID, {"mlp.up"}, torch.float32), alone)
    both = awq_scales(layer, NORM, dict.fromkeys(BOTH, sums), GRID, BOTH, torch.float32)
    assert not torch.equal(both, alone)
    assert torch.equal(awq_scales(layer, NORM, {}, GRID, set(), torch.float32), torch.ones(WIDTH))


@torch.no_grad()
def test_consumers_that_read_other_tokens_count_by_their_tokens():
    """As experts do: the mean of |x| and the error are over all tokens that each has read."""
    layer, many, few = Layer(), inputs(seed=1), inputs(outliers=3, seed=2)[:8]
    sums = {"mlp.gate": sums_of(many), "mlp.up": sums_of(few)}
    found = awq_scales(layer, NORM, sums, GRID, BOTH, torch.float32)
    magnitude = torch.cat([many, few]).abs().mean(0)
    tried = []
    for step in range(20):
        scales = magnitude.pow(step / 20)
        scales = scales / (scales.max() * scales.min()).sqrt()
        errors = [
            output_error(x, linear.weight, rounded(linear.weight, scales))
            for x, linear in ((many, layer.mlp.gate), (few, layer.mlp.up))
        ]
        tried.append((sum(errors), step, scales))
    torch.testing.assert_close(found, min(tried)[2], rtol=1e-5, atol=0)


class Heads(nn.Module):
    head_dim = 4


@torch.no_grad()
def test_query_heads_that_share_values_get_the_scales_of_one_head():
    """Two KV heads of four channels, each read by two query heads: the mean |x| of both is that of the channel."""
    layer = nn.Module()
    layer.self_attn = Heads()
    layer.self_attn.v_proj, layer.self_attn.o_proj = nn.Linear(6, 8, bias=False), nn.Linear(16, 24, bias=False)
    layer.self_attn.o_proj.weight.data = random(24, 16)
    rule = FoldRule(Fold.V_O, "self_attn.v_proj", ("self_attn.o_proj",), spread=Spread.QUERY_HEADS)
    x = random(TOKENS, 16, seed=5) * torch.tensor([1.0, 30, 1, 1, 1, 10, 1, 1, 1, 1, 1, 8, 1, 1, 1, 9])
    path = {"self_attn.o_proj"}
    found = awq_scales(layer, rule, {"self_attn.o_proj": sums_of(x)}, GRID, path, torch.float32)
    a, b, c, d = x.abs().mean(0).split(4)
    channels = torch.cat([(a + b) / 2, (c + d) / 2])
    ratio = (found.log() - found.log().mean()) @ (channels.log() - channels.log().mean())
    ratio = float(ratio / (channels.log() - channels.log().mean()).square().sum())
    assert ratio >= 0.05
    expected = channels.pow(round(ratio * 20) / 20)
    torch.testing.assert_close(found, expected / (expected.max() * expected.min()).sqrt(), rtol=1e-5, atol=0)
    columns = torch.cat([found[:4], found[:4], found[4:], found[4:]])
    weight = layer.self_attn.o_proj.weight
    assert output_error(x, weight, rounded(weight, columns)) < output_error(x, weight, rounded(weight, torch.ones(16)))


def tokens() -> Tensor:
    return torch.randint(0, 500, (6, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", ["qwen3", "qwen35", "qwen35moe"])
@torch.no_grad()
def test_scales_of_all_folds_keep_the_float_model(family: str, tmp_path: Path):
    """With grouped queries, a gate in q_proj, DeltaNet and experts: logits move by at most 1e-5 of their range."""
    if family == "qwen3":
        make_checkpoint(tmp_path, dtype=torch.float32, tokenizer=False)
    else:
        make(family, tmp_path)
    model = open_model(tmp_path)
    expected = model(tokens()).logits
    decoder = decoder_of(model)
    samples = LayerInputs(decoder, tokens(), torch.device("cpu"), ProgressCounter(None, 0))
    moved = 0
    for index, layer in enumerate(decoder.layers):
        names = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
        recorder = InputRecorder(layer, names, f"layer {index}")
        with ExitStack() as stack:
            recorder.attach(stack)
            experts = ExpertTokens(layer, stack)
            samples.run(layer, index, keep=True)
            experts.show_few()
        for rule in fold_rules(layer, decoder.model_type, ALL_FOLDS):
            scales = awq_scales(layer, rule, recorder.sums, Grid(3, 16), set(names), torch.float32, search=FEW)
            apply_fold(layer, rule, scales)
            moved += not torch.equal(scales, torch.ones_like(scales))
    assert moved >= 3 * len(decoder.layers)
    assert (model(tokens()).logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_ranges_are_cut_where_that_makes_the_partial_outputs_better():
    """Brute force over the tokens: each group on its own, the largest |w| times 1 - i / 20 for i < 10."""
    x = inputs(outliers=4)
    weight = random(12, WIDTH) ** 3  # few large weights
    found = clip_limits(weight, sums_of(x).hessian, GRID, torch.float32)
    shares = set()
    for row in range(12):
        for group in range(2):
            part = slice(group * 16, group * 16 + 16)
            whole = weight[row : row + 1, part]
            tried = []
            for step in range(10):
                limit = whole.abs().max() * (1 - step / 20)
                cut = round_to_nearest(whole.clamp(-limit, limit), Grid(3), torch.float32).dequantized()
                tried.append((output_error(x[:, part], whole, cut), step, limit))
            assert found[row, group] == min(tried)[2], (row, group)
            shares.add(min(tried)[1])
    assert len(shares) > 3
    cut = clipped(weight, sums_of(x).hessian, GRID, torch.float32)
    assert torch.equal(cut.abs().unflatten(1, (2, 16)).amax(2), found)
    kept = weight.abs() <= found.repeat_interleave(16, 1)
    assert torch.equal(cut[kept], weight[kept])


@torch.no_grad()
def test_a_range_for_a_whole_row_and_inputs_of_zero():
    weight, x = random(8, WIDTH) ** 3, inputs()
    hessian = sums_of(x).hessian
    for grid in (Grid(3), Grid(3, symmetric=True)):
        cut = clipped(weight, hessian, grid, torch.float32)
        before, after = (
            layer_error(weight, round_to_nearest(one, grid, torch.float32).dequantized(), hessian)
            for one in (weight, cut)
        )
        assert after < before
    assert torch.equal(clipped(weight, torch.zeros_like(hessian), GRID, torch.float32), weight)


def test_queries_and_keys_are_not_cut():
    assert not any(map(is_clipped, ("self_attn.q_proj", "self_attn.k_proj", "linear_attn.in_proj_qkvz")))
    assert all(
        map(is_clipped, ("self_attn.v_proj", "self_attn.o_proj", "mlp.experts.3.up_proj", "linear_attn.out_proj"))
    )


def test_the_published_loss_compares_the_smallest_module_with_all_consumers():
    rules = {rule.producer: compared_module(rule) for rule in (NORM, FoldRule(Fold.UP_DOWN, "mlp.up", ("mlp.down",)))}
    assert rules == {"norm": "mlp", "mlp.up": "mlp.down"}
    experts = FoldRule(Fold.NORM_GATE_UP, "norm", ("mlp.gate", "mlp.experts.0.up_proj", "mlp.experts.1.up_proj"))
    assert compared_module(experts) == "mlp"


@torch.no_grad()
def test_the_published_loss_is_that_of_the_modules_output():
    layer, x = Layer(), inputs(outliers=6)

    def run() -> Iterator[Tensor]:
        for part in x.split(40):
            yield nn.functional.silu(layer.mlp.gate(part)) * layer.mlp.up(part)

    before = {path: layer.get_submodule(path).weight.clone() for path in BOTH}
    expected = torch.cat(list(run()))
    loss = output_loss(layer, run)
    found = awq_scales(layer, NORM, dict.fromkeys(BOTH, sums_of(x)), GRID, BOTH, torch.float32, loss=loss)
    assert all(torch.equal(layer.get_submodule(path).weight, weight) for path, weight in before.items())
    tried = []
    for step in range(20):
        scales = x.abs().mean(0).pow(step / 20)
        scales = scales / (scales.max() * scales.min()).sqrt()
        gate, up = (rounded(before[path], scales) for path in ("mlp.gate", "mlp.up"))
        out = nn.functional.silu(x @ gate.T) * (x @ up.T)
        tried.append((float((out - expected).square().sum()), step, scales))
    torch.testing.assert_close(found, min(tried)[2], rtol=1e-5, atol=0)


@torch.no_grad()
def test_attention_gives_the_same_each_time_it_is_run_again(tmp_path: Path):
    """With the position embeddings that it had, and without a cache, which would grow with each run."""
    make_checkpoint(tmp_path, dtype=torch.float32, tokenizer=False)
    model = open_model(tmp_path)
    attention = model.model.layers[0].self_attn
    calls, seen = ModuleCalls(attention), []
    with ExitStack() as stack:
        calls.attach(stack)
        stack.callback(attention.register_forward_hook(lambda _, inputs, out: seen.append(out[0])).remove)
        for part in tokens().split(2):
            model(part, use_cache=True)
    for _ in range(3):
        outs = list(calls.run())
        assert len(outs) == len(seen) == 3
        for out, one in zip(outs, seen, strict=True):
            assert out.shape == (2, 24, model.config.hidden_size)
            assert torch.equal(out, one)
