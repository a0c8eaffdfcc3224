"""Calibration gives the same statistics as hooks on the whole model, and rejects bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from converters.errors import InputError
from int8.architectures import ARCHITECTURES, MLP, AttentionModules, QuantizableArchitecture
from int8.calibrate import calibrate
from int8.fakequant import FakeQuantLinear
from int8.model import open_model
from int8.observers import RangeObserver
from int8.recipe import ALL_FOLDS, NAMED, Fold, Insertion, Recipe, Scales
from int8.statistics import Statistics, StatisticsCache

Fresh = Callable[..., PreTrainedModel]


@torch.no_grad()
def inputs_of(model: PreTrainedModel, tokens: Tensor, path: str) -> Tensor:
    """The input of a module of the model, for all samples at once."""
    seen: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    model(tokens)
    hook.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("name", ["micro", "micro-moe"])
def test_statistics_equal_those_of_hooks_on_the_whole_model(fresh: Fresh, calibration_tokens: Tensor, name: str):
    """Calibration by layer and batch equals hooks on the model, before folding and after."""
    model, tokens = fresh(name), calibration_tokens[:5, :48]
    before = inputs_of(model, tokens, "model.layers.3.self_attn.o_proj")
    plain = inputs_of(model, tokens, "model.layers.3.self_attn.q_proj")
    folds = (Fold.V_O,)
    found = calibrate(model, tokens, replace(NAMED["w8a8"], folds=folds))
    seen = found.channel_max["3.v->o.self_attn.v_proj"]
    assert torch.allclose(seen, before.abs().flatten(0, -2).amax(0), rtol=1e-3, atol=1e-4)
    low, high = found.ranges["3.self_attn.q_proj"]
    assert low.item() == pytest.approx(plain.amin().item(), rel=1e-3)
    assert high.item() == pytest.approx(plain.amax().item(), rel=1e-3)
    # after the fold v->o, outliers in o_proj's input are smaller
    folded = found.ranges["3.self_attn.o_proj"]
    assert folded[1].item() != pytest.approx(before.amax().item(), rel=1e-2)


def test_batch_size_and_running_out_of_memory_do_not_change_statistics(
    fresh: Fresh, calibration_tokens: Tensor, monkeypatch: pytest.MonkeyPatch
):
    """After running out of memory once, calibration halves the batch and gives the same statistics."""
    recipe = replace(NAMED["sq-ph"], percentile=99.9)
    whole = calibrate(fresh("micro-moe"), calibration_tokens[:9, :32], recipe)
    model = fresh("micro-moe")
    monkeypatch.setattr("int8.layer_inputs.BATCH_TOKENS", 32 * 4)
    hook = model.model.layers[1].input_layernorm.register_forward_hook(_fails_once(torch.OutOfMemoryError("pretended")))
    steps: list[tuple[int, int]] = []
    halved = calibrate(model, calibration_tokens[:9, :32], recipe, progress=lambda *at: steps.append(at))
    hook.remove()
    assert halved.expert_tokens == whole.expert_tokens
    for key, expected in {**whole.channel_max, **whole.ranges}.items():
        found = {**halved.channel_max, **halved.ranges}[key]
        assert torch.allclose(found, expected, rtol=2e-3, atol=1e-4), key
    assert steps[-1] == (9 * 4 * 2, 9 * 4 * 2)  # samples, layers, passes


def _fails_once(error: Exception) -> Callable[..., None]:
    left = [error]

    def hook(*_: object) -> None:
        if left:
            raise left.pop()

    return hook


def test_a_device_without_enough_memory_is_reported(fresh: Fresh, calibration_tokens: Tensor):
    model = fresh()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("pretended")

    model.model.layers[2].mlp.register_forward_hook(full)
    with pytest.raises(InputError, match=r"model\.layers\.2: cpu does not have enough memory"):
        calibrate(model, calibration_tokens[:4, :32], NAMED["w8a8"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_rejected_with_their_layer(
    fresh: Fresh, calibration_tokens: Tensor, value: float
):
    for recipe in (NAMED["w8a8"], NAMED["sq-ph-dyn"]):
        model = fresh()
        model.model.layers[2].mlp.up_proj.weight.data[5, 7] = value
        with pytest.raises(InputError, match=r"model\.layers\.2\.mlp\.(down|up)_proj"):
            calibrate(model, calibration_tokens[:2, :32], recipe)


def test_weights_that_are_not_finite_are_rejected_without_reading_a_text(fresh: Fresh):
    model = fresh()
    model.model.layers[4].self_attn.k_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"model\.layers\.4\.self_attn\.k_proj: its weights"):
        calibrate(model, torch.empty(0, 1, dtype=torch.long), NAMED["w8a16"])


def test_recipes_without_ranges_or_folds_need_no_text():
    assert {name for name, recipe in NAMED.items() if not recipe.needs_text} == {"w8a8-dyn", "w8a16"}
    assert replace(NAMED["w8a16"], value=Scales.HEAD).needs_text
    assert replace(NAMED["w8a16"], folds=(Fold.UP_DOWN,)).needs_text


def test_experts_that_no_token_reaches_are_quantized(fresh: Fresh, calibration_tokens: Tensor):
    """The router never chooses expert 0: it reads the first tokens, counts as unreached, and still works."""
    model, tokens = fresh("micro-moe"), calibration_tokens[:8, :64]
    for layer in model.model.layers:
        layer.mlp.gate.weight.data[0] = 0  # never above the average of the six
        layer.mlp.gate.weight.data[1:] *= 4
    experts = [layer.mlp.experts[0] for layer in model.model.layers]
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = [expert(x) for expert in experts]
    found = calibrate(model, tokens, NAMED["w8a8"])
    assert sum(found.expert_tokens.values()) == 4 * 2 * tokens.numel()  # four layers, two experts per token
    assert min(found.expert_tokens.values()) < 16
    for i, layer in enumerate(model.model.layers):
        assert f"{i}.mlp.experts.0.down_proj" in found.ranges
        expert = layer.mlp.experts[0]
        assert isinstance(expert.down_proj, FakeQuantLinear)
        with torch.no_grad():
            assert (expert(x) - expected[i]).norm() < 0.5 * expected[i].norm()


def test_layers_kept_by_the_recipe_stay_float(fresh: Fresh, calibration_tokens: Tensor):
    model = fresh("micro-moe")
    calibrate(model, calibration_tokens[:2, :32], NAMED["w8a8"])
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name.rpartition(".")[2] for name in linears} == {"in_proj_a", "in_proj_b", "shared_expert_gate", "lm_head"}
    quantized = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, FakeQuantLinear)
    }
    assert quantized == {
        "in_proj_qkv", "in_proj_z", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
        "down_proj",
    }  # fmt: skip


@pytest.mark.parametrize("grouping", ["tensor", "head", "channel"])
@pytest.mark.parametrize("percentile", [100.0, 99.0, 90.0])
def test_percentiles_are_exact_for_any_split_into_batches(grouping: str, percentile: float):
    x = torch.randn(7, 50, 3, 4, generator=torch.Generator().manual_seed(0)) ** 3
    groups = {"tensor": x.reshape(1, -1), "head": x.permute(2, 0, 1, 3).reshape(3, -1),
              "channel": x.permute(2, 3, 0, 1).reshape(12, -1)}[grouping]  # fmt: skip
    seen = RangeObserver(grouping, percentile, expected=groups.shape[1])
    for part in x:
        seen.observe(part)
    ends = seen.ends()
    assert ends is not None
    ordered = groups.sort(1).values
    outside = round((100 - percentile) * groups.shape[1]) // 100  # number of values beyond the percentile
    assert torch.equal(ends[0], ordered[:, outside])
    assert torch.equal(ends[1], ordered[:, -1 - outside])


def test_a_percentile_below_100_narrows_ranges(fresh: Fresh, calibration_tokens: Tensor):
    tokens = calibration_tokens[:3, :64]
    wide = calibrate(fresh(), tokens, NAMED["w8a8"]).ranges
    narrow = calibrate(fresh(), tokens, replace(NAMED["w8a8"], percentile=99.0)).ranges
    assert wide.keys() == narrow.keys()
    assert all((narrow[key].abs() <= wide[key].abs() + 1e-6).all() for key in wide)
    assert sum((narrow[key][1] < wide[key][1]).item() for key in wide) > len(wide) * 0.9


def test_statistics_are_cached_by_content(tmp_path: Path, fresh: Fresh, calibration_tokens: Tensor):
    tokens, recipe = calibration_tokens[:4, :64], NAMED["sq-ph"]
    cache = StatisticsCache(tmp_path, "a model's fingerprint", tokens)
    first = fresh()
    cache.save(recipe, calibrate(first, tokens, recipe, known=cache.load(recipe)))
    known = cache.load(recipe)
    second = fresh()
    read: list[tuple[int, int]] = []
    calibrate(second, tokens, recipe, known=known, progress=lambda *at: read.append(at))
    assert not read  # no layer runs again
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    other = cache.load(replace(recipe, alpha=0.8))
    assert other.channel_max.keys() == known.channel_max.keys()  # same folds and text
    assert not other.ranges
    assert cache.load(replace(recipe, name="renamed", int8_kv_cache=True)).ranges.keys() == known.ranges.keys()
    for elsewhere in (
        StatisticsCache(tmp_path, "another", tokens),
        StatisticsCache(tmp_path, "a model's fingerprint", tokens + 1),
    ):
        assert not elsewhere.load(recipe).channel_max


def test_damaged_statistics_files_are_measured_again(tmp_path: Path, calibration_tokens: Tensor):
    recipe = NAMED["sq"]
    cache = StatisticsCache(tmp_path, "x", calibration_tokens)
    cache.save(recipe, Statistics({"0.a": torch.ones(3)}, {"0.b": torch.ones(2, 1)}))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:20])
    assert not cache.load(recipe).channel_max
    assert not cache.load(recipe).ranges


def test_layers_keep_their_dtype_and_hooks_are_removed(fresh: Fresh, calibration_tokens: Tensor):
    model = fresh().to(torch.bfloat16)
    calibrate(model, calibration_tokens[:2, :32], Recipe("x", alpha=0.5, folds=ALL_FOLDS, insertion=Insertion.ROPE))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert model(calibration_tokens[:1]).logits.dtype == torch.bfloat16


def without_norms(tmp_path: Path) -> Path:
    """A tiny Qwen2, whose attention has no norms of heads."""
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=500,
        dtype="float32",
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


@pytest.mark.parametrize("recipe", ["sq", "sq-ph-dyn", "int8 cache"])
@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (QuantizableArchitecture(MLP), "attention of this qwen2 model has no q_norm, k_norm"),
        (QuantizableArchitecture(MLP, AttentionModules("attn")), "no attention that it supports in this qwen2 model"),
    ],
)
def test_unsupported_attention_is_an_error_and_not_left_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, architecture: QuantizableArchitecture, message: str
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "qwen2", architecture)
    chosen = NAMED.get(recipe) or replace(NAMED["w8a8-dyn"], name=recipe, int8_kv_cache=True)
    model = open_model(without_norms(tmp_path), "float32")
    with pytest.raises(InputError, match=message) as error:
        calibrate(model, torch.randint(0, 500, (2, 16)), chosen)
    assert "\n" not in str(error.value)
    assert chosen.name in str(error.value)
    assert not any(isinstance(module, FakeQuantLinear) for module in model.modules())  # no layer was replaced


def test_a_recipe_that_leaves_attention_float_needs_no_supported_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "qwen2", QuantizableArchitecture(MLP))
    model = open_model(without_norms(tmp_path), "float32")
    calibrate(model, torch.randint(0, 500, (2, 16)), NAMED["w8a8"])
    assert sum(isinstance(module, FakeQuantLinear) for module in model.modules()) == 2 * 7
