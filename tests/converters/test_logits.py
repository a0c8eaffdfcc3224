"""An F32 file in llama.cpp gives the logits of transformers in float32.

With F32 K and V and flash attention off; llama.cpp's default f16 cache alone moves logits by 0.01.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from converters.export import export
from converters.llamacpp.bindings import TYPES, lib, start_backend
from converters.resolver import open_source


def llama_cpp_logits(path: Path, tokens: list[int]) -> np.ndarray:
    """Logits of every position, [tokens, vocabulary]."""
    start_backend()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    assert model
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.type_k = params.type_v = TYPES["F32"].id
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, params)
    assert context
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, True
    assert lib.llama_decode(context, batch) == 0
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    pointer = ctypes.cast(lib.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
    logits = np.ctypeslib.as_array(pointer, (len(tokens), vocabulary)).copy()
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return logits


def transformers_logits(directory: Path, tokens: list[int]) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


SHAPES = {
    "grouped-query 4:2, tied": {},
    "multi-head, untied": {"num_key_value_heads": 4, "tie_word_embeddings": False},
    "multi-query 6:1, three layers": {
        "num_attention_heads": 6, "num_key_value_heads": 1, "num_hidden_layers": 3, "head_dim": 32,
    },
    "heads wider than the embedding": {"hidden_size": 96, "num_attention_heads": 4, "head_dim": 64},
    "odd sizes, vocabulary larger than the tokenizer": {
        "hidden_size": 72, "intermediate_size": 104, "num_attention_heads": 3, "num_key_value_heads": 3,
        "head_dim": 24, "vocab_size": 531, "num_hidden_layers": 1,
    },
    "other rotary base and epsilon": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rms_norm_eps": 1e-3,
    },
    "linear rotary scaling": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
        },
    },
    "sharded": {"shard": "300KB"},
    "float16": {"dtype": torch.float16},
}  # fmt: skip


@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES.keys())
def test_logits_equal_those_of_transformers(
    checkpoint: Callable[..., Path], tmp_path: Path, settings: dict[str, object]
) -> None:
    directory = checkpoint(**settings)
    export(open_source(directory), {"F32": tmp_path / "f32.gguf"})
    for seed, length in ((0, 200), (1, 7)):
        tokens = np.random.default_rng(seed).integers(0, 512, length).tolist()
        ours, theirs = llama_cpp_logits(tmp_path / "f32.gguf", tokens), transformers_logits(directory, tokens)
        assert theirs.std() > 0.3, "logits without spread prove nothing"
        assert np.abs(ours - theirs).max() <= 1e-3
