"""The pre-tokenizers of llama.cpp that Qwen's models have, and the Unicode normalization that goes with each."""

from collections.abc import Mapping
from dataclasses import dataclass

NORMALIZER_KEY = "bitsweep.tokenizer.normalizer"
"""Unicode normalization that the original tokenizer applies and llama.cpp skips: "NFC" or "none"."""


@dataclass(frozen=True)
class PreTokenizer:
    """`name` is llama.cpp's, `pattern` the regular expression in tokenizer.json, `normalizer` what all of Qwen's
    published tokenizers that have it do before it."""

    name: str
    pattern: str
    normalizer: str


PRE_TOKENIZERS = (
    PreTokenizer(  # Qwen2, Qwen2.5, Qwen3
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        "NFC",
    ),
    PreTokenizer(  # Qwen3.5, Qwen3.6: combining marks belong to words
        "qwen35",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        "NFC",
    ),
)


def normalizer(metadata: Mapping[str, str]) -> str:
    """Unicode form ("NFC" or "none") that text must have before llama.cpp tokenizes it, from a file's text metadata.

    llama.cpp has no normalizer of its own. Files of this project say what the tokenizer had; of a file made elsewhere
    it is told from the pre-tokenizer.
    """
    known = metadata.get(NORMALIZER_KEY)
    if known is not None:
        return known
    name = metadata.get("tokenizer.ggml.pre")
    return next((one.normalizer for one in PRE_TOKENIZERS if one.name == name), "none")
