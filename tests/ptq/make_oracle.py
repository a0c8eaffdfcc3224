"""Writes what llm-compressor computes on a small random Qwen3: the fixture that test_oracle.py compares with.

    make oracle && build/oracle-ptq/venv/bin/python tests/ptq/make_oracle.py tests/ptq/fixtures

Runs in llm-compressor's own environment, so it imports nothing of bitsweep. Weights are random with a fixed seed; some
channels are outliers, as in trained models. oracle.json has the versions and settings, oracle.safetensors the tensors:

- `model.NAME`: the checkpoint in bfloat16, which is run in float32; `tokens` [samples, length].
- `METHOD/LINEAR.codes`, `.scale`, `.zero`: a quantized weight (codes - zero) * scale; that these are llm-compressor's
  dequantized weights to the bit is asserted here. METHOD is a key of ROUNDING.
- `hessian/LINEAR`: H as GPTQ's quantize_weight gets it, the same for every method in the first layer.
- `awq/PRODUCER`: AWQ's scales, for every fold that llm-compressor makes.
- `smooth/PRODUCER.low`, `.high`: the range of each channel; `smooth/PRODUCER`: SmoothQuant's scales; `smooth/logits`:
  of the model with 8-bit weights and activations, for the last tokens of each sample.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llmcompressor.modifiers.gptq.base as gptq_base
import torch
from compressed_tensors.quantization import fake_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

Tensors = dict[str, Tensor]

CONFIG = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128, "tie_word_embeddings": True,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.08,
}  # fmt: skip
SEED, SAMPLES, LENGTH, GROUP, ALPHA, SHOWN = 0, 8, 64, 32, 0.5, 4

FIRST = "model.layers.0."
LINEARS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
"""The linear layers whose weights are kept; down_proj has more columns than a block."""

ROUNDING: dict[str, dict[str, Any]] = {
    "rtn-w4-sym": {"bits": 4, "group": GROUP, "symmetric": True},
    "rtn-w4-asym": {"bits": 4, "group": GROUP, "symmetric": False},
    "rtn-w8-sym": {"bits": 8, "group": GROUP, "symmetric": True},
    "rtn-w8-row": {"bits": 8, "group": 0, "symmetric": True},
    "gptq-static-sym": {"bits": 4, "group": GROUP, "symmetric": True, "order": "static"},
    "gptq-static-asym": {"bits": 4, "group": GROUP, "symmetric": False, "order": "static"},
    "gptq-static-row": {"bits": 3, "group": 0, "symmetric": False, "order": "static"},
    "gptq-none-sym": {"bits": 4, "group": 0, "symmetric": True, "order": None},
    "gptq-none-asym": {"bits": 4, "group": 0, "symmetric": False, "order": None},
}


@contextmanager
def made_model() -> Iterator[Qwen3ForCausalLM]:
    """The model, read from a directory, because llm-compressor reads the config again."""
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(Qwen3Config(**CONFIG))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.6, 1.4)
            if name.endswith("layernorm.weight"):
                parameter.data[torch.randperm(len(parameter))[:4]] *= 12
        parameter.data.copy_(parameter.data.bfloat16())
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        yield Qwen3ForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def make_tokens() -> Tensor:
    return torch.randint(1, CONFIG["vocab_size"], (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(SEED))


def run(model: nn.Module, recipe: Any, tokens: Tensor) -> None:
    rows = {"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()}
    oneshot(
        model=model,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"0": 0}, "0")), pad_token="0"),
        dataset=Dataset.from_dict(rows),
        recipe=recipe,
        num_calibration_samples=SAMPLES,
        max_seq_length=LENGTH,
        shuffle_calibration_samples=False,
    )


def scheme(settings: dict[str, Any]) -> dict[str, Any]:
    weights = {
        "num_bits": settings["bits"],
        "type": "int",
        "symmetric": settings["symmetric"],
        "strategy": "group" if settings["group"] else "channel",
        "group_size": settings["group"] or None,
    }
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


def kept(module: nn.Module, dequantized: Tensor, method: str, linear: str) -> Tensors:
    """A quantized weight as codes, scales and zero points."""
    scale, zero = module.weight_scale.data, getattr(module, "weight_zero_point", None)
    zero = torch.zeros_like(scale, dtype=torch.int8) if zero is None else zero.data
    groups = dequantized.shape[1] // scale.shape[1]
    wide, wide_zero = scale.repeat_interleave(groups, 1), zero.repeat_interleave(groups, 1)
    codes = torch.round(dequantized / wide) + wide_zero
    assert torch.equal((codes - wide_zero) * wide, dequantized), (method, linear)
    key = f"{method}/{linear}"
    return {f"{key}.codes": codes.to(torch.int8), f"{key}.scale": scale, f"{key}.zero": zero}


def round_to_nearest(model: nn.Module, method: str, settings: dict[str, Any], tokens: Tensor) -> Tensors:
    run(model, QuantizationModifier(config_groups=scheme(settings), ignore=["lm_head"]), tokens)
    found = {}
    for name in LINEARS:
        module = model.get_submodule(FIRST + name)
        arguments = module.quantization_scheme.weights
        zero = getattr(module, "weight_zero_point", None)
        found |= kept(module, fake_quantize(module.weight, module.weight_scale, zero, arguments), method, name)
    return found


def gptq(model: nn.Module, method: str, settings: dict[str, Any], tokens: Tensor) -> tuple[Tensors, Tensors]:
    """Quantized weights, and the Hessians of the first layer."""
    originals = {name: model.get_submodule(FIRST + name).weight.detach().clone() for name in LINEARS}
    hessians: Tensors = {}
    quantize_weight = gptq_base.quantize_weight

    def watched(weights: Tensor, hessians_: Tensor | None = None, **options: Any) -> Any:
        given = options["hessians"]
        for name, original in originals.items():
            if torch.equal(weights[0], original):
                hessians[name] = given[0].clone()  # quantize_weight computes in its arguments
        return quantize_weight(weights=weights, **options)

    gptq_base.quantize_weight = watched
    try:
        modifier = GPTQModifier(config_groups=scheme(settings), ignore=["lm_head"], actorder=settings["order"])
        run(model, modifier, tokens)
    finally:
        gptq_base.quantize_weight = quantize_weight
    found = {}
    for name in LINEARS:
        module = model.get_submodule(FIRST + name)
        found |= kept(module, module.weight.data, method, name)
    return found, hessians


def awq(model: nn.Module, tokens: Tensor) -> Tensors:
    scales: Tensors = {}
    compute = AWQModifier._compute_best_scale

    def watched(self: Any, mapping: Any, *rest: Any) -> Tensor:
        scales[f"awq/{mapping.smooth_name}"] = found = compute(self, mapping, *rest)
        return found

    AWQModifier._compute_best_scale = watched
    IntermediatesCache.pin_memory = lambda *_: None  # needs an accelerator
    try:
        quantizer = QuantizationModifier(config_groups=scheme(ROUNDING["rtn-w4-asym"]), ignore=["lm_head"])
        run(model, [AWQModifier(), quantizer], tokens)
    finally:
        AWQModifier._compute_best_scale = compute
    return scales


def smoothquant(model: nn.Module, tokens: Tensor) -> Tensors:
    found: Tensors = {}
    apply, compute = SmoothQuantModifier._apply_smoothing, SmoothQuantModifier._calculate_smoothing_scales
    names: dict[int, str] = {}

    def watched(self: Any, layers: list[nn.Module], ranges: Tensor) -> Tensor:
        key = f"smooth/{names[id(layers[0])]}"
        seen = self.scales_[key.partition("/")[2]]
        found[f"{key}.low"], found[f"{key}.high"] = seen.min_channel_vals.clone(), seen.max_channel_vals.clone()
        found[key] = scales = compute(self, layers, ranges)
        return scales

    def named(self: Any, of: nn.Module) -> None:
        names.update({id(mapping.balance_layers[0]): mapping.smooth_name for mapping in self.resolved_mappings_})
        apply(self, of)

    SmoothQuantModifier._apply_smoothing, SmoothQuantModifier._calculate_smoothing_scales = named, watched
    try:
        quantizer = QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"])
        run(model, [SmoothQuantModifier(smoothing_strength=ALPHA), quantizer], tokens)
    finally:
        SmoothQuantModifier._apply_smoothing, SmoothQuantModifier._calculate_smoothing_scales = apply, compute
    with torch.no_grad():
        found["smooth/logits"] = model(tokens).logits[:, -SHOWN:].clone()
    return found


def main(out: Path) -> None:
    torch.set_num_threads(1)  # sums then have one order
    tokens = make_tokens()
    tensors = {"tokens": tokens.to(torch.int16)}
    with made_model() as model:
        weights = {f"model.{name}": value.bfloat16() for name, value in model.state_dict().items()}
        tensors |= {name: value for name, value in weights.items() if name != "model.lm_head.weight"}  # tied
    first: Tensors = {}
    for method, settings in ROUNDING.items():
        with made_model() as model:
            if method.startswith("rtn"):
                tensors |= round_to_nearest(model, method, settings, tokens)
                continue
            found, hessians = gptq(model, method, settings, tokens)
        assert set(hessians) == set(LINEARS), hessians.keys()
        first = first or hessians
        assert all(torch.equal(first[name], hessians[name]) for name in first)
        tensors |= found
    tensors |= {f"hessian/{name}": hessian for name, hessian in first.items()}
    for work in (awq, smoothquant):
        with made_model() as model:
            tensors |= work(model, tokens)
    packages = ("llmcompressor", "compressed-tensors", "transformers", "torch", "datasets")
    settings = {
        "versions": {name: version(name) for name in packages},
        "config": CONFIG,
        "rounding": ROUNDING,
        "awq": "rtn-w4-asym",
        "alpha": ALPHA,
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "oracle.safetensors")
    (out / "oracle.json").write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
