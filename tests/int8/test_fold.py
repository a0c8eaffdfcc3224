"""Folds are exact: in every architecture and shape, a folded model computes the same as the original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from families import FAMILIES, TORCH_ONLY, make
from torch import Tensor, nn
from transformers import PreTrainedModel

from int8.architectures import ARCHITECTURES, FoldRule, ProducerKind, Spread
from int8.experts import Experts, separate_experts
from int8.fold import apply_fold, column_scales, fold_rules, fold_scales, smoothing_scales
from int8.model import decoder_of, open_model
from int8.recipe import ALL_FOLDS, Fold

SHAPES = {
    "qwen3": {},
    "qwen3, tied": {"tie_word_embeddings": True},
    "qwen3, untied": {"tie_word_embeddings": False},
    "qwen3, one head each": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "qwen3, one KV head": {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 32},
    "qwen3, biases": {"attention_bias": True},
    "llama": {},
    "qwen2": {},
    "qwen2moe": {},
    "qwen3moe": {},
    "qwen3moe, dense layers between": {"decoder_sparse_step": 2, "num_hidden_layers": 4, "norm_topk_prob": False},
    "qwen3next": {},
    "qwen3next, dense layers between": {"mlp_only_layers": [1, 3]},
    "qwen35": {},
    "qwen35, multi-modal": {},
    "qwen35moe": {},
    "qwen2vl": {},
    "qwen3vl": {},
    "qwen3vlmoe": {},
}


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    name = request.param
    if name.startswith("qwen3,") or name == "qwen3":
        make_checkpoint(tmp_path, dtype=torch.float32, tokenizer=False, **SHAPES[name])
    else:
        make(name if name in FAMILIES | TORCH_ONLY else name.partition(",")[0], tmp_path, **SHAPES[name])
    return open_model(tmp_path)


def tokens(n: int = 3, length: int = 24) -> Tensor:
    return torch.randint(0, 500, (n, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(tokens()).logits.float()


def fold_all(model: PreTrainedModel, folds: tuple[Fold, ...], seed: int = 0) -> int:
    """Apply all folds with random scales between 1/8 and 8. Returns their number."""
    generator = torch.Generator().manual_seed(seed)
    decoder, count = decoder_of(model), 0
    for layer in decoder.layers:
        for row in fold_rules(layer, decoder.model_type, folds):
            width = len(layer.get_submodule(row.producer).weight)
            apply_fold(layer, row, 8 ** (torch.rand(width, generator=generator) * 2 - 1))
            count += 1
    return count


def test_a_folded_model_computes_the_same_as_the_original(model: PreTrainedModel):
    """Logits change by at most 1e-4 in float32, for each fold and for all folds."""
    expected = logits(model)
    assert expected.std() > 0.1  # with constant logits the comparison would be meaningless
    for folds in [*((fold,) for fold in ALL_FOLDS), ALL_FOLDS]:
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        assert fold_all(model, folds) >= len(decoder_of(model).layers) - ("mlp" in str(folds))
        assert any(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
        assert (logits(model) - expected).abs().max() <= 1e-4, folds
        model.load_state_dict(before, strict=False)


def test_every_layer_has_all_four_folds_and_each_linear_layer_is_in_one(model: PreTrainedModel):
    decoder = decoder_of(model)
    for layer in decoder.layers:
        rows = fold_rules(layer, decoder.model_type, ALL_FOLDS)
        assert {row.fold for row in rows} == set(ALL_FOLDS)
        consumers = [path for row in rows for path in row.consumers]
        linears = [name for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)]
        assert set(linears) <= set(consumers)
        assert len(consumers) == len(set(consumers))


def test_norms_that_multiply_by_one_plus_weight_are_marked_so():
    """Such norms have initial weights of 0 in transformers' modules."""
    for family, model_type in (("qwen3next", "qwen3_next"), ("qwen35", "qwen3_5_text"), ("qwen3moe", "qwen3_moe")):
        with torch.device("meta"):
            layer = decoder_of(FAMILIES[family].model(FAMILIES[family].config())).layers[0]
        for row in ARCHITECTURES[model_type].folds:
            if row.producer.endswith("norm") and row.producer in dict(layer.named_modules()):
                norm = type(layer.get_submodule(row.producer))(4)
                assert (row.kind is ProducerKind.NORM_ONE_PLUS) == (norm.weight.sum().item() == 0), row


def test_separate_experts_compute_the_same_as_stacked_ones(tmp_path: Path):
    make("qwen35moe", tmp_path)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = logits(model)
    storage = model.model.layers[0].mlp.experts.down_proj.data_ptr()
    separate_experts(model)
    experts = model.model.layers[0].mlp.experts
    assert isinstance(experts, Experts)
    assert experts[0].down_proj.weight.data_ptr() == storage  # views, so a large model is not held twice
    assert (logits(model) - expected).abs().max() <= 1e-5


def test_smoothing_scales_follow_the_formula():
    x, w = torch.tensor([4.0, 100.0, 0.0, 3.0]), torch.tensor([1.0, 0.25, 2.0, 0.0])
    assert smoothing_scales(x, w, 0.5).tolist() == pytest.approx([2.0, 20.0, 1.0, 1.0])
    assert smoothing_scales(x, w, 1.0).tolist() == pytest.approx([4.0, 100.0, 1.0, 1.0])
    assert smoothing_scales(x, w, 0.0).tolist() == pytest.approx([1.0, 4.0, 1.0, 1.0])


def test_channels_below_one_are_smoothed_too():
    assert smoothing_scales(torch.tensor([0.25]), torch.tensor([0.0625]), 0.5).tolist() == [2.0]


class Attention(nn.Module):
    """Two KV heads of three channels, each read by two query heads."""

    head_dim = 3

    def __init__(self):
        super().__init__()
        self.v_proj = nn.Linear(2, 6, bias=False)
        self.o_proj = nn.Linear(12, 4, bias=False)
        self.gate_proj = nn.Linear(12, 4, bias=False)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()


HEADS = FoldRule(Fold.V_O, "self_attn.v_proj", ("self_attn.o_proj",), spread=Spread.QUERY_HEADS)


def test_of_columns_that_read_the_same_channel_the_largest_counts():
    layer = Layer()
    # column c has the weights -(c + 1), 0, 1, 0: the largest |w| is c + 1
    weight = torch.stack([-torch.arange(1.0, 13), torch.zeros(12), torch.ones(12), torch.zeros(12)])
    layer.self_attn.o_proj.weight.data = weight
    activation = torch.tensor([9.0, 2, 3, 4, 5, 1, 7, 8, 1, 2, 3, 16])
    # query heads 0 and 1 (columns 0 to 5) read the first KV head, 2 and 3 (columns 6 to 11) the second
    x, w = torch.tensor([9.0, 5, 3, 7, 8, 16]), torch.tensor([4.0, 5, 6, 10, 11, 12])
    found = fold_scales(layer, HEADS, activation, {"self_attn.o_proj"}, 0.25)
    torch.testing.assert_close(found, x**0.25 / w**0.75)
    columns = column_scales(layer, HEADS, torch.arange(6.0), 12)
    assert columns.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


def test_a_producer_with_the_width_of_one_head_serves_all_heads():
    layer = Layer()
    layer.self_attn.norm = nn.LayerNorm(3)
    rule = FoldRule(Fold.V_O, "self_attn.norm", ("self_attn.o_proj",), ProducerKind.NORM, Spread.ALL_HEADS)
    layer.self_attn.o_proj.weight.data = torch.arange(1.0, 13).expand(4, 12)
    found = fold_scales(layer, rule, torch.tensor([1.0, 2, 3, 9, 2, 3, 1, 8, 3, 1, 2, 7]), {"self_attn.o_proj"}, 0.5)
    torch.testing.assert_close(found, (torch.tensor([9.0, 8, 7]) / torch.tensor([10.0, 11, 12])).sqrt())
    assert column_scales(layer, rule, torch.arange(3.0), 12).tolist() == [0, 1, 2] * 4


def test_only_consumers_that_become_int8_influence_the_scales():
    layer = Layer()
    rule = FoldRule(Fold.V_O, "self_attn.v_proj", ("self_attn.o_proj", "self_attn.gate_proj"))
    layer.self_attn.o_proj.weight.data.fill_(4.0)
    layer.self_attn.gate_proj.weight.data.fill_(-16.0)
    activation = torch.full((12,), 64.0)
    expected = {"self_attn.o_proj": 4.0, "self_attn.gate_proj": 2.0}  # sqrt(64 / 4) and sqrt(64 / 16)
    for path, scale in expected.items():
        assert fold_scales(layer, rule, activation, {path}, 0.5).tolist() == [scale] * 12
    assert fold_scales(layer, rule, activation, set(expected), 0.5).tolist() == [2.0] * 12  # the larger weight counts
    assert fold_scales(layer, rule, activation, {"lm_head"}, 0.5).tolist() == [1.0] * 6  # one per producer channel


def test_a_fold_divides_weight_and_bias_and_multiplies_columns():
    layer = Layer()
    layer.self_attn.v_proj = nn.Linear(2, 6)
    v, o = layer.self_attn.v_proj, layer.self_attn.o_proj
    before = [one.detach().clone() for one in (v.weight, v.bias, o.weight)]
    scales = torch.arange(1.0, 7)
    apply_fold(layer, HEADS, scales)
    torch.testing.assert_close(v.weight, before[0] / scales[:, None])
    torch.testing.assert_close(v.bias, before[1] / scales)
    torch.testing.assert_close(o.weight, before[2] * column_scales(layer, HEADS, scales, 12))


def test_rules_name_every_expert_in_order():
    with torch.device("meta"):
        model = FAMILIES["qwen3moe"].model(FAMILIES["qwen3moe"].config())
    separate_experts(model)
    layer = decoder_of(model).layers[0]
    n = len(layer.mlp.experts)
    norm, *_ = [rule for rule in fold_rules(layer, "qwen3_moe", (Fold.NORM_GATE_UP,)) if "*" not in rule.producer]
    assert [path for path in norm.consumers if "up_proj" in path] == [f"mlp.experts.{i}.up_proj" for i in range(n)]
    down = fold_rules(layer, "qwen3_moe", (Fold.UP_DOWN,))
    assert [rule.producer for rule in down] == [f"mlp.experts.{i}.up_proj" for i in range(n)]
    assert [rule.consumers for rule in down] == [(f"mlp.experts.{i}.down_proj",) for i in range(n)]


def test_added_outliers_do_not_change_logits(fresh: Callable[[str], PreTrainedModel]):
    from outliers import add_outliers, scale_query_key_head, spread_value_heads

    for name in ("micro", "micro-moe"):
        model = fresh(name)
        expected = logits(model)
        add_outliers(model)
        spread_value_heads(model, (64.0, 1.0))
        scale_query_key_head(model, 64.0)
        assert (logits(model) - expected).abs().max() <= 2e-3 * expected.abs().max(), name
