"""Quantizing a checkpoint layer by layer: what is written, read back, resumed, and refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint, make_tokenizer
from families import make
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import ptq.quantize
from converters.errors import InputError
from int8.model import load_checkpoint, open_model
from int8.quantize_model import CalibrationText
from int8.tokenizer import load_tokenizer
from ptq.checkpoint import is_ptq, load, read_report, read_summary
from ptq.gptq import inverse_root
from ptq.grid import round_to_nearest
from ptq.layer import LayerWork
from ptq.linear import RoundedInputLinear, rounded_tokens
from ptq.quantize import quantize
from ptq.recipe import Grid, recipe
from ptq.sizes import ptq_sizes

FAMILIES = ("qwen3moe", "qwen3next", "qwen35", "qwen35moe")
SMALL = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_hidden_layers": 3, "vocab_size": 512}
TEXT = CalibrationText("a text", lambda tokenizer: " ".join(f"word{i % 97} {i * 31 % 11}" for i in range(3000)))
EVERY = (
    "rtn:w4", "rtn:w3g16-sym", "gptq:w4g16", "gptq+a:w3g32", "awq:w4g16", "awq+gptq:w3g16", "hqq:w4g16", "billm",
    "sq:w8a8", "sq:w4a4", "sq+gptq:w4a8g32", "rot+rtn:w4", "rot+gptq:w4g16", "sq+rot:w4a4", "awq+rot+gptq:w4g16",
)  # fmt: skip


def quantized(path: Path, name: str, out: Path, **options: Any) -> Path:
    quantize(path, recipe(name), TEXT, out, count=4, length=32, **options)
    return out


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    ids = torch.arange(24)[None] % 50 + 3
    return model(input_ids=ids).logits.float()


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of 3 layers in BF16."""
    return make_checkpoint(tmp_path_factory.mktemp("dense") / "model", **SMALL)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_stored_is_what_was_computed_and_as_large_as_predicted(name: str, dense: Path, tmp_path: Path):
    out = quantized(dense, name, tmp_path / "out")
    model, read = load(out)
    assert read == recipe(name)
    assert logits(model).isfinite().all()
    report = read_report(out)
    for layer in report["layers"].values():
        assert len(layer["linears"]) == 7
        for linear in layer["linears"].values():
            assert (linear["tokens"] == 4 * 32) == recipe(name).needs_text
            assert (linear["error"] is None) == (not recipe(name).needs_text)
    shapes = {name: tuple(parameter.shape) for name, parameter in open_model(dense).named_parameters()}
    sizes = ptq_sizes(shapes, recipe(name), "qwen3", tied=True, experts_used=1)
    stored = [tensor.nbytes for file in out.glob("*.safetensors") for tensor in load_file(file).values()]
    assert sum(stored) == sizes.file
    summary = read_summary(out)
    assert summary.bits_per_weight == pytest.approx(8 * sizes.file / sizes.weights)
    assert summary.file_bytes == sum(file.stat().st_size for file in out.glob("*.safetensors"))


def test_plain_rounding_rounds_every_weight_to_its_grid(dense: Path, tmp_path: Path):
    """The oracle is round_to_nearest on the checkpoint's own tensors, which test_oracle.py holds to llm-compressor."""
    model, _ = load(quantized(dense, "rtn:w4g32", tmp_path / "out"))
    original = open_model(dense)
    for name, module in original.named_modules():
        weight = model.get_submodule(name).get_parameter("weight") if isinstance(module, nn.Linear) else None
        if weight is not None and name != "lm_head":
            expected = round_to_nearest(module.weight.float(), recipe("rtn:w4g32").grid, torch.bfloat16).dequantized()
            assert torch.equal(weight, expected), name
    for name in ("model.norm", "model.embed_tokens", "model.layers.1.input_layernorm"):
        assert torch.equal(model.get_submodule(name).weight, original.get_submodule(name).weight)


@pytest.mark.parametrize("name", [name for name in EVERY if recipe(name).packed])
def test_transformers_reads_the_same_weights(name: str, dense: Path, tmp_path: Path):
    pytest.importorskip("compressed_tensors")
    out = quantized(dense, name, tmp_path / "out")
    ours, read = load(out)
    plain = load_dequantized(out)
    for path, module in ours.named_modules():
        if isinstance(module, nn.Linear | RoundedInputLinear) and path != "lm_head":
            assert torch.equal(plain.get_submodule(path).weight, module.weight.to(torch.bfloat16)), path
    if not read.symmetric:  # compressed-tensors 0.20 loads asymmetric weights only this way
        return
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    for path, module in theirs.named_modules():
        if isinstance(module, nn.Linear) and path != "lm_head":
            scheme = module.quantization_scheme
            assert scheme.weights.num_bits == read.bits
            assert (scheme.input_activations is not None) == (read.activation_bits < 16)
    # In float32 they do not round the values of weights to BF16, so an activation may be rounded to the other side.
    lost = (logits(load_checkpoint(dense).float()) - logits(theirs)).abs().mean()
    assert (logits(ours.float()) - logits(theirs)).abs().mean() < 0.35 * lost


def load_dequantized(out: Path) -> nn.Module:
    from transformers import CompressedTensorsConfig

    return AutoModelForCausalLM.from_pretrained(
        out, dtype="auto", quantization_config=CompressedTensorsConfig(dequantize=True)
    )


@pytest.mark.parametrize("name", ["hqq:w4g16", "billm"])
def test_other_programs_refuse_what_no_format_of_theirs_can_hold(name: str, dense: Path, tmp_path: Path):
    out = quantized(dense, name, tmp_path / "out")
    with pytest.raises(ValueError, match="bitsweep"):
        AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *((family, "rtn:w4g16") for family in FAMILIES),
        ("llama", "sq+gptq:w4a8g32"),
        ("qwen2", "awq+gptq:w4g16"),
        ("qwen2moe", "gptq:w4g16"),
        ("qwen3moe", "awq+gptq:w4g16"),
        ("qwen3moe", "gptq+a:w4g16"),
        *(pytest.param(family, "awq+gptq:w4g16", marks=pytest.mark.slow) for family in FAMILIES[1:]),
    ],
)
def test_every_linear_layer_of_every_family_is_quantized_and_counted(family: str, name: str, tmp_path: Path):
    model = make(family, tmp_path / "model", dtype=torch.bfloat16)
    make_tokenizer(tmp_path / "model")
    out = quantized(model, name, tmp_path / "out")
    assert logits(load(out)[0]).isfinite().all()
    report = read_report(out)
    expected = {
        path
        for path, module in open_model(model).named_modules()
        if isinstance(module, nn.Linear) and not recipe(name).keeps(path)
    }
    found = {f"{layer}.{linear}" for layer, one in report["layers"].items() for linear in one["linears"]}
    assert found == expected
    assert any(".experts." in path for path in found) == ("moe" in family or family == "qwen3next")
    if recipe(name).needs_text:
        for layer in report["layers"].values():
            assert all(linear["tokens"] >= 16 for linear in layer["linears"].values())
            if layer["expert_tokens"]:
                assert sum(layer["expert_tokens"]) == 4 * 32 * experts_per_token(model)


def experts_per_token(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["num_experts_per_tok"])


@pytest.mark.parametrize("base", ["rtn:w4g16", "rot+rtn:w4", "gptq:w4g16"])
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_head_of_8_bits_are_stored_read_and_counted(base: str, tied: bool, tmp_path: Path):
    model = make_checkpoint(tmp_path / "model", **SMALL, tie_word_embeddings=tied)
    file = tmp_path / "mine.toml"
    file.write_text(f'base = "{base}"\nembedding_bits = 8\n')
    chosen = recipe(f"ptq:{file}")
    out = tmp_path / "out"
    quantize(model, chosen, TEXT, out, count=4, length=32)
    read, _ = load(out)
    original = open_model(model).model.embed_tokens.weight
    if base != "rot+rtn:w4":
        expected = round_to_nearest(original.float(), Grid(8, 32, symmetric=True), torch.bfloat16).dequantized()
        assert torch.equal(read.model.embed_tokens.weight, expected)
    own_head = not tied or base == "rot+rtn:w4"
    assert (read.lm_head.weight is read.model.embed_tokens.weight) != own_head
    shapes = {name: tuple(parameter.shape) for name, parameter in open_model(model).named_parameters()}
    sizes = ptq_sizes(shapes, chosen, "qwen3", tied=tied, experts_used=1)
    assert sum(tensor.nbytes for one in out.glob("*.safetensors") for tensor in load_file(one).values()) == sizes.file
    assert read_summary(out).bits_per_weight == pytest.approx(8 * sizes.file / sizes.weights)


def test_gptq_is_nearer_to_the_float_model_than_plain_rounding(dense: Path, tmp_path: Path):
    ids = load_tokenizer(dense)(TEXT.read(None))["input_ids"][:96]
    with torch.no_grad():
        exact = load_checkpoint(dense)(input_ids=torch.tensor([ids])).logits
    distances = {}
    for number, name in enumerate(("rtn:w3g16", "gptq:w3g16", "rtn:w8")):
        out = tmp_path / str(number)
        quantize(dense, recipe(name), TEXT, out, count=64, length=32)
        with torch.no_grad():
            distances[name] = (load(out)[0](input_ids=torch.tensor([ids])).logits - exact).square().mean()
    assert distances["gptq:w3g16"] < distances["rtn:w3g16"]
    assert distances["rtn:w8"] < 0.01 * distances["rtn:w3g16"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("gptq:w4g16", "layer"),
        ("gptq:w4g16", "float"),
        ("gptq+a:w4g16", "layer"),
        ("gptq:w4g16", "inside"),
        ("sq:w4a8", "layer"),
        ("rot+gptq:w4g16", "float"),
        ("sq+rot:w4a4", "layer"),
    ],
)
def test_a_killed_process_resumes_after_its_last_layer(
    name: str, inputs: str, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "mine.toml"
    file.write_text(f'base = "{name}"\ninputs = "{inputs}"\n')
    chosen = f"ptq:{file}"
    whole = quantized(dense, chosen, tmp_path / "whole")
    done: list[int] = []
    run = LayerWork.run

    def counted(work: LayerWork, limit: int) -> Any:
        if len(done) == limit:
            raise Killed
        done.append(1)
        return run(work)

    monkeypatch.setattr(LayerWork, "run", lambda work: counted(work, 2))
    with pytest.raises(Killed):
        quantized(dense, chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(LayerWork, "run", lambda work: counted(work, 3))
    out = quantized(dense, chosen, tmp_path / "out")
    assert len(done) == 3  # only the last layer was quantized after the restart
    for file in sorted(whole.iterdir()):
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_what_another_recipe_began_is_not_resumed(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = LayerWork.run
    with monkeypatch.context() as patched:
        patched.setattr(LayerWork, "run", lambda work: stop_after_first(work, run))
        with pytest.raises(Killed):
            quantized(dense, "rtn:w4", tmp_path / "out")
    out = quantized(dense, "rtn:w3", tmp_path / "out")
    assert load(out)[1] == recipe("rtn:w3")


def stop_after_first(work: LayerWork, run: Callable[[LayerWork], Any]) -> Any:
    if work._index:
        raise Killed
    return run(work)


def test_an_error_leaves_nothing_behind(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("int8.checkpoint_files.save_file", full)
    with pytest.raises(InputError, match=r"cannot be written: .*No space left on device"):
        quantized(dense, "rtn:w4", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "usable"), [("rtn:w4g128", "use a group of 64, or none"), ("gptq:w4g48", "64")])
def test_groups_that_do_not_divide_a_row_are_refused(name: str, usable: str, dense: Path, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        quantized(dense, name, tmp_path / "out")
    assert "model.layers.0.self_attn.q_proj has 64 inputs" in str(caught.value)
    assert usable in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers_are_named(dense: Path, tmp_path: Path):
    broken = shutil.copytree(dense, tmp_path / "model")
    file = broken / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    for name in ("rtn:w4", "gptq:w4g16"):
        with pytest.raises(InputError, match=r"^model\.layers\.1\.mlp\.down_proj: its weights are NaN or infinite"):
            quantized(broken, name, tmp_path / "out")


@pytest.mark.parametrize("name", ["model.layers.1.input_layernorm.weight", "model.norm.weight"])
def test_float_weights_that_are_not_numbers_are_named(name: str, dense: Path, tmp_path: Path):
    """Plain rounding reads no text, which would show it."""
    broken = shutil.copytree(dense, tmp_path / "model")
    tensors = load_file(broken / "model.safetensors")
    tensors[name][3] = torch.nan
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    for variant in ("rtn:w4", "hqq:w4g16"):
        with pytest.raises(InputError, match=rf"^{re.escape(name)}: has NaN or infinite values"):
            quantized(broken, variant, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_inputs_whose_squares_overflow_are_named(dense: Path, tmp_path: Path):
    """H of them is infinite, for which more samples or damping do nothing."""
    broken = shutil.copytree(dense, tmp_path / "model")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1e25
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"^model\.layers\.0\.mlp\.down_proj: its inputs or their squares are NaN or"):
        quantized(broken, "gptq:w4g16", tmp_path / "out")


def test_more_damping_than_the_recipe_has_is_said(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Which damping suffices depends on rounding errors, so it is set here."""
    assert read_summary(quantized(dense, "gptq:w4g16", tmp_path / "enough")).damping is None

    def ten_times(hessian: Tensor, damp: float, where: str) -> tuple[Tensor, bool]:
        return inverse_root(hessian, 10 * damp, where)[0], "1.mlp.up_proj" in where or "2.mlp.up_proj" in where

    monkeypatch.setattr("ptq.gptq.inverse_root", ten_times)
    assert read_summary(quantized(dense, "gptq:w4g16", tmp_path / "more")).damping == (
        "model.layers.1.mlp.up_proj (and 1 more): H was positive definite only with 10 times the damp; use more samples"
    )


def test_inputs_that_are_not_numbers_are_named(dense: Path, tmp_path: Path):
    broken = shutil.copytree(dense, tmp_path / "model")
    file = broken / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.post_attention_layernorm.weight"][2] = torch.inf
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"^model\.layers\.1\.mlp\.gate_proj: its inputs or their squares are NaN or"):
        quantized(broken, "gptq:w4g16", tmp_path / "out")


def test_a_text_that_is_too_short_is_refused(dense: Path, tmp_path: Path):
    short = CalibrationText("notes.txt", lambda tokenizer: "a few words")
    with pytest.raises(InputError, match=r"^notes\.txt: too short"):
        quantize(dense, recipe("gptq:w4g16"), short, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_exists_is_not_replaced(dense: Path, tmp_path: Path):
    out = quantized(dense, "rtn:w4", tmp_path / "out")
    assert is_ptq(out)
    with pytest.raises(InputError, match="exists already"):
        quantized(dense, "rtn:w3", tmp_path / "out")


def test_the_layers_report_is_needed_to_read_a_directory(dense: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"has no ptq\.json"):
        load(dense)
    out = quantized(dense, "rtn:w4", tmp_path / "out")
    (out / "ptq.json").write_text("{}")
    with pytest.raises(InputError, match="is incomplete"):
        load(out)


def test_activations_are_rounded_per_token():
    x = torch.tensor([[1.0, -0.5, 0.26, 0.0], [100.0, 1.0, 2.0, 3.0]])
    found = rounded_tokens(x, 4)
    scale = x.abs().amax(1, keepdim=True) * 2 / 15
    assert torch.equal(found, torch.round(x / scale).clamp(-8, 7) * scale)
    linear = nn.Linear(4, 2)
    assert torch.equal(RoundedInputLinear(linear, 4)(x), nn.functional.linear(found, linear.weight, linear.bias))
    assert torch.equal(rounded_tokens(torch.zeros(1, 4), 8), torch.zeros(1, 4))


def test_samples_are_limited_by_what_the_model_can_use(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    quantize(dense, recipe("gptq:w4g16"), TEXT, tmp_path / "out")
    calibration = read_report(tmp_path / "out")["calibration"]
    assert calibration == {"text": "a text", "samples": 96 * ptq.quantize.TOKENS_PER_COLUMN // 512, "length": 512}
