"""Whisper in int8: exact folds in both stacks, recipes, real int8 and fake-quant, checkpoints, sizes and caches."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from whispers import SHAPES, logits, make_whisper, noise_windows, save_whisper

from converters.checkpoint import read_config, read_safetensors_header
from converters.errors import InputError
from int8.calibrate_speech import OUTPUT_KEY, calibrate_speech, output_rule
from int8.checkpoint import CalibrationRecord, load, save
from int8.fakequant import FakeQuantLinear, attentions
from int8.fold import apply_fold, fold_rules
from int8.quantize_model import quantize_model
from int8.real_int8 import to_int8
from int8.recipe import ALL_FOLDS, NAMED, SPEECH_NAMED, Activations, Fold, Insertion, Recipe, Stacks, recipe
from int8.samples import Samples
from int8.speech_cache import speech_cache
from int8.speech_model import DECODER, ENCODER, open_speech_model, stack_of
from int8.speech_sizes import speech_sizes
from int8.statistics import Statistics

RECIPES = [*NAMED, *SPEECH_NAMED, "sq-ph@encoder", "sq-ph-fc2@decoder"]


class Windows:
    """A CalibrationSource of windows of noise."""

    name, is_cut = "noise", False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def of(self, path: Path, count: int | None, length: int | None) -> Samples:
        return noise_windows(self._model)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folded_whisper_computes_the_same_as_the_original(shape: str) -> None:
    """Logits change by at most 1e-4 with random scales from 1/8 to 8, for each fold and for all of them."""
    model = make_whisper(**SHAPES[shape])
    windows, generator = noise_windows(model), torch.Generator().manual_seed(0)
    expected = logits(model, windows)
    assert expected.std() > 0.1
    for folds in ((Fold.NORM_QKV,), (Fold.V_O,), (Fold.NORM_GATE_UP,), ALL_FOLDS):
        folded, count = copy.deepcopy(model), 0
        for name in (ENCODER, DECODER):
            stack = stack_of(folded, name)
            for layer in stack.layers:
                for rule in fold_rules(layer, stack.model_type, folds):
                    width = len(layer.get_submodule(rule.producer).weight)
                    apply_fold(layer, rule, 8 ** (torch.rand(width, generator=generator) * 2 - 1))
                    count += 1
        if Fold.NORM_QKV in folds:
            width = folded.config.d_model
            rule = output_rule(folded.config.decoder_layers)
            apply_fold(folded.model, rule, 8 ** (torch.rand(width, generator=generator) * 2 - 1))
        assert count >= folded.config.encoder_layers + folded.config.decoder_layers
        assert (logits(folded, windows) - expected).abs().max() <= 1e-4, folds


def test_every_linear_layer_but_fc2_is_in_one_fold() -> None:
    model = make_whisper()
    for name in (ENCODER, DECODER):
        stack = stack_of(model, name)
        for layer in stack.layers:
            consumers = [path for rule in fold_rules(layer, "whisper", ALL_FOLDS) for path in rule.consumers]
            linears = {path for path, module in layer.named_modules() if isinstance(module, torch.nn.Linear)}
            others = {"fc2"} | ({"encoder_attn.k_proj", "encoder_attn.v_proj"} if name == DECODER else set())
            assert set(consumers) == linears - others
            assert len(consumers) == len(set(consumers))


@pytest.mark.parametrize("name", RECIPES)
def test_a_quantized_whisper_stays_near_and_real_int8_near_fake_quant(name: str) -> None:
    model = make_whisper()
    windows, chosen = noise_windows(model), recipe(name)
    expected = logits(model, windows)
    statistics = calibrate_speech(model, windows, chosen)
    found = logits(model, windows)
    assert 1e-4 < ((found - expected).norm() / expected.norm()).item() < 0.05
    real = logits(to_int8(copy.deepcopy(model), chosen), windows)
    assert ((real - found).norm() / expected.norm()).item() < 0.01  # a few roundings differ
    keys = {key.split(".")[0] for key in [*statistics.ranges, *statistics.channel_max]}
    if chosen.needs_text:
        assert keys == ({"encoder", "decoder"} if chosen.stacks is Stacks.BOTH else {str(chosen.stacks)} | keys)
    assert (OUTPUT_KEY in statistics.channel_max) == (bool(chosen.folds) and chosen.stacks is not Stacks.ENCODER)


def test_recipes_quantize_every_linear_layer_of_their_stacks_and_both_kinds_of_attention() -> None:
    for name, layers in (("sq-ph", 2 * 6 + 3 * 10), ("sq-ph@encoder", 2 * 6), ("sq-ph@decoder", 3 * 10)):
        model = make_whisper()
        calibrate_speech(model, noise_windows(model), recipe(name))
        quantized = [path for path, module in model.named_modules() if isinstance(module, FakeQuantLinear)]
        assert len(quantized) == layers
        with_scales = [
            attention
            for attention, _ in attentions(model)
            if all(hasattr(attention, f"{part}_quantizer") for part in ("query", "key", "value"))
        ]
        assert len(with_scales) == {"sq-ph": 2 + 3 * 2, "sq-ph@encoder": 2, "sq-ph@decoder": 6}[name]
        assert all(len(one.query_quantizer.scale) == one.num_heads for one in with_scales)  # a scale per head


def test_only_fc2_is_dynamic_in_a_static_recipe() -> None:
    model = make_whisper()
    calibrate_speech(model, noise_windows(model), recipe("sq-ph-fc2"))
    for path, module in model.named_modules():
        if isinstance(module, FakeQuantLinear):
            expected = Activations.DYNAMIC if path.endswith(".fc2") else Activations.STATIC
            assert module.activations is expected
            assert (module.input_scale is None) == (expected is Activations.DYNAMIC)


def test_an_outlier_at_one_token_in_front_of_fc2_ruins_static_scales_and_not_dynamic_ones() -> None:
    """As in whisper-base, where the language token gives fc2 an input of 186 beside a median of 0.17."""
    model = make_whisper()
    decoder = model.get_submodule("model.decoder")
    with torch.no_grad():
        decoder.embed_positions.weight[0, 3] = 400.0
        for layer in decoder.layers:
            layer.fc1.weight[7] = 0.0
            layer.fc1.weight[7, 3], layer.fc1.bias[7] = 100.0, -400.0
            layer.fc2.weight[:, 7] = 0.0
    windows = noise_windows(model)
    expected = logits(model, windows)
    errors = {}
    for name in ("sq-ph", "sq-ph-fc2"):
        quantized = copy.deepcopy(model)
        calibrate_speech(quantized, windows, recipe(name))
        errors[name] = (logits(quantized, windows) - expected).norm().item()
    assert errors["sq-ph-fc2"] < 0.5 * errors["sq-ph"]


@pytest.mark.parametrize("name", ["w8a16", "sq", "sq-ph-fc2", "sq-ph@encoder"])
def test_a_saved_whisper_computes_the_same_and_its_size_was_predicted(name: str, tmp_path: Path) -> None:
    source = save_whisper(tmp_path / "source")
    model, chosen = open_speech_model(source), recipe(name)
    made, record = quantize_model(source, chosen, Windows(model), cache=tmp_path / "cache")
    windows = noise_windows(model)
    expected = logits(made, windows)
    size = save(made, chosen, record, source, tmp_path / "out")
    loaded, read = load(tmp_path / "out")
    assert read == chosen
    assert torch.equal(logits(loaded, windows), expected)
    tensors = {tensor.name: tensor for tensor in read_safetensors_header(source / "model.safetensors").values()}
    predicted = speech_sizes(tensors, read_config(source), chosen)
    assert predicted.file == size
    assert predicted.loaded == sum(
        tensor.nbytes
        for tensor in {
            held.data_ptr(): held for held in [*_in_int8(loaded, read).parameters(), *_in_int8(loaded, read).buffers()]
        }.values()
    )
    again, _ = quantize_model(source, chosen, Windows(model), cache=tmp_path / "cache")  # from the cache
    assert torch.equal(logits(again, windows), expected)


def _in_int8(model: PreTrainedModel, chosen: Recipe) -> PreTrainedModel:
    return to_int8(model, chosen)


@pytest.mark.parametrize("insertion", Insertion)
def test_an_int8_cache_gives_what_fake_quant_gives_without_a_cache(insertion: Insertion) -> None:
    """Tokens one after another, with self-attention's cache and the window's keys and values in int8."""
    chosen = replace(recipe("sq-ph-fc2"), insertion=insertion, int8_kv_cache=True)
    model = make_whisper()
    windows = noise_windows(model, count=1)
    calibrate_speech(model, windows, chosen)
    expected = logits(model, windows)[0]
    features = torch.from_numpy(windows.windows[0].features)[None]
    cache, found = speech_cache(model, chosen), []
    with torch.no_grad():
        states = model.model.encoder(features).last_hidden_state
        for token in windows.windows[0].tokens:
            out = model.model.decoder(
                input_ids=torch.tensor([[token]]),
                encoder_hidden_states=states,
                past_key_values=cache,
                use_cache=True,
            )
            found.append(model.proj_out(out.last_hidden_state)[0, -1])
    assert (torch.stack(found) - expected).norm() < 0.02 * expected.norm()
    stored = cache.cross_attention_cache.layers[0]
    values = features.shape[-1] // 2 * model.config.d_model
    scales = 0 if insertion is Insertion.ROPE else 2 * 4 * (values // 16)  # otherwise one per position and head of K
    assert stored.nbytes <= 2 * values + scales


def test_int8_attention_runs_in_both_stacks() -> None:
    chosen = replace(recipe("sq-ph-fc2"), insertion=Insertion.ROPE, int8_attention=True)
    model = make_whisper()
    windows = noise_windows(model)
    calibrate_speech(model, windows, chosen)
    fake = logits(model, windows)
    real = logits(to_int8(copy.deepcopy(model), chosen), windows)
    assert ((real - fake).norm() / fake.norm()).item() < 0.01


def test_nan_weights_and_activations_name_the_layer() -> None:
    for name in ("w8a16", "sq"):
        model = make_whisper()
        model.get_submodule("model.decoder.layers.2.fc1").weight.data[0, 0] = torch.nan
        with pytest.raises(InputError, match=r"model\.decoder\.layers\.2"):
            calibrate_speech(model, noise_windows(model), recipe(name))


def test_a_text_does_not_calibrate_a_speech_model() -> None:
    with pytest.raises(InputError, match="is calibrated with speech"):
        calibrate_speech(make_whisper(), torch.zeros(2, 8, dtype=torch.long), recipe("sq"))


def test_a_recipe_that_finds_no_attention_is_an_error() -> None:
    model = make_whisper()
    for attention, _ in list(attentions(model)):
        attention.v_proj = None
    with pytest.raises(InputError, match="has no v_proj"):
        calibrate_speech(model, noise_windows(model), recipe("sq-ph"), known=Statistics())


def test_text_models_reject_recipes_for_speech_models(fresh) -> None:  # type: ignore[no-untyped-def]
    from int8.calibrate import calibrate

    tokens = torch.zeros(2, 8, dtype=torch.long)
    for name, reason in (("sq-ph-fc2", "no layers fc2"), ("w8a16@encoder", "no encoder")):
        with pytest.raises(InputError, match=reason):
            calibrate(fresh(), tokens, recipe(name))


def test_settings_of_fc2_and_stacks_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "sq-ph"\nfc2 = "dynamic"\nstacks = "decoder"\n')
    chosen = recipe(str(file))
    assert chosen == replace(recipe("sq-ph-fc2@decoder"), name="mine")
    assert "fc2" in chosen.to_json()
    assert not {"fc2", "stacks"} & set(recipe("sq-ph").to_json())  # keys of stored results stay
    for text, reason in (
        ('fc2 = "float"', "known are static, dynamic"),
        ('base = "sq-ph-dyn"\nfc2 = "dynamic"', "static activations"),
        ('stacks = "middle"', "known are both, encoder, decoder"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=reason):
            recipe(str(file))


def test_checkpoints_keep_the_dtype_of_the_weights_that_stay_float(tmp_path: Path) -> None:
    make_whisper().half().save_pretrained(tmp_path / "source")
    model, _ = quantize_model(tmp_path / "source", recipe("w8a16"), None)
    save(model, recipe("w8a16"), CalibrationRecord(None), tmp_path / "source", tmp_path / "out")
    tensors = read_safetensors_header(tmp_path / "out" / "model-00001-of-00001.safetensors")
    assert tensors["model.decoder.embed_tokens.weight"].dtype == "F16"
    assert np.isfinite(logits(load(tmp_path / "out")[0].float(), noise_windows(model)).numpy()).all()
