"""A transformers tokenizer as the torch backend uses it: text to tokens and back, as llama.cpp does both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from int8.tokenizer import load_tokenizer
from sweep.backends.base import Tokens

END_TOKENS = ("<|im_end|>", "<|endoftext|>")  # of Qwen; llama.cpp ends at both of them, no matter what a config says


class TorchVocabulary:
    """The tokens of a model that torch runs; its attributes and methods are those of Backend with the same names.

    `n_vocab` is the number of tokens. The model may have more, which no text gives: the padding of its embeddings.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        known = tokenizer.get_vocab()
        self.n_vocab = len(tokenizer)
        self.eos_id: int = tokenizer.eos_token_id
        self.bos_id: int = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else self.eos_id
        self.end_ids = frozenset(known[name] for name in END_TOKENS if name in known) | {self.eos_id}
        self.add_bos = bool(tokenizer("")["input_ids"])
        self.chat_template: str | None = tokenizer.chat_template
        self._added = tokenizer.added_tokens_decoder
        # byte-level BPE, as in Qwen
        self._byte_of = {character: byte for byte, character in bytes_to_unicode().items()}

    @classmethod
    def open(cls, path: Path) -> Self:
        """The vocabulary of a checkpoint directory. Raises InputError."""
        return cls(load_tokenizer(path))

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        ids = self.tokenizer(
            text, add_special_tokens=add_special, split_special_tokens=not parse_special, verbose=False
        )["input_ids"]
        return np.asarray(ids, np.int32)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return str(
            self.tokenizer.decode(list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; empty for special tokens unless `special`."""
        if token in self._added:
            added = self._added[token]
            return added.content.encode() if special or not added.special else b""
        text = self.tokenizer.convert_ids_to_tokens(token)
        return bytes(self._byte_of[c] for c in text) if text is not None else b""  # None: padding of the vocabulary
