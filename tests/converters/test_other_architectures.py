"""A GGUF file of an architecture that is not one of this program's: a tiny Llama, with the rotation of its rows that
llama.cpp's converter makes, written by the package gguf."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from test_export import quantize_by_llama_cpp
from test_logits import llama_cpp_logits
from transformers import LlamaConfig, LlamaForCausalLM

from converters.errors import InputError
from converters.export import export
from converters.loadable import require_loadable_source
from converters.resolver import open_source

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
TYPES = {"F32": (np.float32, None), "F16": (np.float16, None), "BF16": (np.uint16, GGMLQuantizationType.BF16)}


@pytest.fixture(scope="module")
def llama(tiny: Path) -> LlamaForCausalLM:
    """Random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens_of(tiny)), hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.05,
        tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def vocabulary_file(tiny: Path) -> Path:
    file = tiny.parent / "vocabulary.gguf"
    if not file.exists():
        export(open_source(tiny), {"BF16": file})
    return file


def tokens_of(tiny: Path) -> list[str]:
    return list(GGUFReader(vocabulary_file(tiny)).fields["tokenizer.ggml.tokens"].contents())


def rotated(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of Q or K in the order of llama.cpp's rotary embedding: LlamaModel.permute of its converter."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(model: LlamaForCausalLM, tiny: Path, type_: str, file: Path) -> Path:
    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_name("Tiny Llama")
    writer.add_context_length(256)
    writer.add_embedding_length(256)
    writer.add_block_count(2)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    for key, field in GGUFReader(vocabulary_file(tiny)).fields.items():
        if key.startswith("tokenizer."):
            kinds = field.types
            writer.add_key_value(key, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    dtype, raw = TYPES[type_]
    for name, value in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            own = f"blk.{layer}.{NAMES[part]}.weight"
        else:
            own = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[
                stem
            ] + ".weight"
        heads = {"attn_q": 4, "attn_k": 2}.get(own.split(".")[-2])
        weight = (value if heads is None else rotated(value, heads)).float()
        if weight.ndim == 1 or raw is None:
            writer.add_tensor(own, weight.numpy().astype(np.float32 if weight.ndim == 1 else dtype))
        else:
            bits = weight.bfloat16().contiguous().view(torch.uint16).numpy()
            writer.add_tensor(own, bits.view(np.uint8), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def files(llama: LlamaForCausalLM, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("llama")
    return {type_: write(llama, tiny, type_, folder / f"tiny-llama-{type_}.gguf") for type_ in TYPES}


@pytest.mark.parametrize("type_", TYPES)
def test_it_is_quantized_by_llama_cpps_own_rules(files: dict[str, Path], type_: str, tmp_path: Path) -> None:
    source = open_source(files[type_])
    require_loadable_source(source)
    ours = {quant: tmp_path / f"{quant}.gguf" for quant in ("Q4_K_M", "Q3_K_M", "IQ4_XS", "Q8_0")}
    export(source, ours)
    for quant, file in ours.items():
        quantize_by_llama_cpp(files[type_], tmp_path / "theirs.gguf", quant)
        assert file.read_bytes() == (tmp_path / "theirs.gguf").read_bytes(), quant


def test_its_logits_are_those_of_transformers(llama: LlamaForCausalLM, files: dict[str, Path], tmp_path: Path) -> None:
    export(open_source(files["F16"]), {"F32": tmp_path / "F32.gguf"})
    tokens = list(range(40, 72))
    with torch.no_grad():
        theirs = copy.deepcopy(llama).half().float()(torch.tensor([tokens])).logits[0].numpy()
    for file in (files["F16"], tmp_path / "F32.gguf"):
        ours = llama_cpp_logits(file, tokens)
        assert np.abs(ours - theirs).max() < 0.02
        assert np.array_equal(ours.argmax(-1), theirs.argmax(-1))


def test_a_checkpoint_of_it_is_rejected_with_the_way_out(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"'LlamaForCausalLM' is not supported; give its F16, BF16 or F32 file"):
        open_source(tmp_path)
