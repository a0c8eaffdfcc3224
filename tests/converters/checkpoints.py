"""Makes tiny random Qwen3 checkpoints with transformers, and trains a byte-level BPE tokenizer for them."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
import transformers

# Written here and not taken from the converter, as an independent reference: the regular expression of Qwen2's
# published tokenizer.json.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The same of Qwen3.5's: combining marks belong to words.
QWEN35_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = (
    "Hello world, it's 12345 apples and I'LL take 67.89% of them!",
    "def f(x):\n    return {'a': [x**2 for _ in range(10)]}  # tab\there\r\n\r\n\tend",
    "中文字符和数字123，日本語のテキスト、한국어 텍스트。",
    "emoji 🚀🚀 👩‍👩‍👧‍👦 flags 🇩🇪 skin 👍🏽",
    "blanks:    four\n\n\n  \n \t \t\tmixed   \n   end   ",
    "combining: e\u0301 a\u0308 नमस्ते हिन्दी กำลัง ế Ångström \u212b",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "don't DON'T we'Ve a'lL \u00a0nbsp\u3000ideographic\u200bzero",
)


def make_tokenizer(
    directory: Path,
    vocab: int = 512,
    normalizer: bool = True,
    split: str = QWEN2_SPLIT,
    texts: Sequence[str] = TEXTS,
) -> transformers.PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts` and save it as a Hugging Face tokenizer. `split` is a regular expression."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    if normalizer:
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(split), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab - 3,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator([*texts] * 4, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    fast.save_pretrained(directory)
    return fast


def make_checkpoint(
    directory: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    shard: str = "5GB",
    seed: int = 0,
    tokenizer: bool = True,
    **settings: object,
) -> Path:
    """Save a random Qwen3 with a few layers; `settings` are entries of its config."""
    torch.manual_seed(seed)
    values: dict[str, object] = {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "initializer_range": 0.05,
    }
    config = transformers.Qwen3Config(**{**values, **settings})
    model = transformers.Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # weights of 1 would hide a norm that was lost or swapped
            parameter.data.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    if tokenizer:
        make_tokenizer(directory)
    return directory
