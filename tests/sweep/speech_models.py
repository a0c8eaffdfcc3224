"""Tiny random Whisper checkpoints with a tokenizer, and directories of recordings of noise with transcripts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, WhisperFeatureExtractor
from whispers import make_whisper

from speech.recording import RATE

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
           "<|notimestamps|>")  # fmt: skip
FIRST = 256  # special tokens follow the bytes
END, START = FIRST, FIRST + 1
TIMESTAMPS = FIRST + len(SPECIAL)
VOCABULARY = TIMESTAMPS + 5
NEVER = (3, 7, 40)
NEVER_FIRST = (20, END)


def make_checkpoint(path: Path, seed: int = 0, **changed: Any) -> Path:
    """A checkpoint directory. Its tokens are bytes, special tokens and five timestamps."""
    own = {
        "vocab_size": VOCABULARY, "max_source_positions": 1500, "max_target_positions": 40, "d_model": 32,
        "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_layers": 2, "pad_token_id": END, "bos_token_id": END,
        "eos_token_id": END, "decoder_start_token_id": START,
    }  # fmt: skip
    model = make_whisper(seed, **{**own, **changed})
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START, eos_token_id=END, bos_token_id=END, pad_token_id=END, max_length=40,
        is_multilingual=True, lang_to_id={"<|en|>": FIRST + 2, "<|de|>": FIRST + 3},
        task_to_id={"translate": FIRST + 4, "transcribe": FIRST + 5}, no_timestamps_token_id=FIRST + 6,
        suppress_tokens=[*NEVER, START, *range(FIRST + 2, VOCABULARY)], begin_suppress_tokens=list(NEVER_FIRST),
        max_initial_timestamp_index=1,
    )  # fmt: skip
    model.save_pretrained(path)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(path)
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([f"<|{i / 50:.2f}|>" for i in range(5)])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "WhisperTokenizer"}))
    return path


def make_recordings(path: Path, count: int = 6, seconds: float = 1.5, seed: int = 0) -> Path:
    """A directory of FLAC files of noise, with a table of transcripts."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = [("file", "text")]
    for number in range(count):
        name = f"{number}.flac"
        soundfile.write(path / name, rng.normal(0, 0.1, round(seconds * RATE)) * rng.uniform(0.1, 1), RATE)
        rows.append((name, f"some words {number}"))
    with open(path / "transcripts.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path
