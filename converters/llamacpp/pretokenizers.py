"""llama.cpp's pre-tokenizers for Qwen's models, and the Unicode normalization that goes with each of them."""

from collections.abc import Mapping
from dataclasses import dataclass

NORMALIZER_KEY = "bitsweep.tokenizer.normalizer"
"""GGUF key for the normalization that the original tokenizer applies and llama.cpp does not: "NFC" or "none"."""


@dataclass(frozen=True)
class PreTokenizer:
    """`name` is llama.cpp's, `pattern` the regular expression in tokenizer.json. `normalizer` is the normalization that
    all of Qwen's published tokenizers with this pre-tokenizer apply before it."""

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
    """The normalization ("NFC" or "none") that text needs before llama.cpp tokenizes it, from a file's text metadata.

    llama.cpp does not normalize. Files that this project makes name the tokenizer's normalization; for other files it
    follows from the pre-tokenizer.
    """
    known = metadata.get(NORMALIZER_KEY)
    if known is not None:
        return known
    name = metadata.get("tokenizer.ggml.pre")
    return next((one.normalizer for one in PRE_TOKENIZERS if one.name == name), "none")
