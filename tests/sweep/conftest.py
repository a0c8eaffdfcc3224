"""A tiny random Qwen3 in three shapes: a Hugging Face directory, the same model in transformers, and its F32 GGUF."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sample_records import baseline, failed, hostile, records  # noqa: F401 - fixtures of every folder below

from converters.export import export, open_source

TEXT = (
    "The old lighthouse keeper counted seven boats and three gulls. Mara bought 12 apples, gave 5 away, and kept 7. "
    "def double(x): return x + x\nfor i in range(10): print(i)\nQ: What is 3 + 4? A: 7. "
    "Zoë drank café au lait. 你好世界 🙂 "
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class TinyModel:
    directory: Path
    gguf: Path
    hf: Any  # transformers' Qwen3ForCausalLM, float32, eager attention
    tokenizer: Any


def build_tokenizer(n_vocab: int, directory: Path) -> Any:
    """A byte-level BPE with Qwen2's split, of exactly `n_vocab` tokens with the special ones."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    syllables = random.Random(0).choices([a + b for a in "bdfgklmnprstvz" for b in "aeiou"], k=9000)
    words = " ".join("".join(syllables[i : i + 3]) for i in range(0, len(syllables), 3))
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT, words], trainer)
    bpe.add_special_tokens(list(SPECIAL))
    assert bpe.get_vocab_size() == n_vocab
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    return tokenizer


def build_model(
    directory: Path, *, n_vocab: int, seed: int = 0, scale: float = 0.08, tokenizer: Any = None, **shape: int
) -> TinyModel:
    """Random weights of the given shape, spread enough for distributions that are not flat.

    `tokenizer` is a Hugging Face one of `n_vocab` tokens in place of the small one made here.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    directory.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        tokenizer = build_tokenizer(n_vocab, directory)
    else:
        tokenizer.save_pretrained(directory)
    config = Qwen3Config(
        vocab_size=n_vocab,
        initializer_range=scale,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        attn_implementation="eager",
        **shape,
    )
    model = Qwen3ForCausalLM(config).float().eval()
    model.save_pretrained(directory)
    gguf_path = directory / "model-F32.gguf"
    export(open_source(directory, directory.name), {"F32": gguf_path}, threads=1)
    return TinyModel(directory, gguf_path, model, tokenizer)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TinyModel]:
    return lambda name, **shape: build_model(tmp_path_factory.mktemp(name), **shape)


@pytest.fixture(scope="session")
def tiny(make_model: Callable[..., TinyModel]) -> TinyModel:
    return make_model(
        "tiny",
        n_vocab=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=640,
    )
