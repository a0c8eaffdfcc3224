"""Tiny random Whispers made by transformers, with windows of noise to calibrate and compare them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, WhisperConfig, WhisperForConditionalGeneration

from int8.speech_samples import SpeechWindow, SpeechWindows

FRAMES = 200  # of a spectrogram: twice the encoder's positions

TINY: dict[str, Any] = {
    "vocab_size": 200, "num_mel_bins": 80, "d_model": 64, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 128,
    "max_source_positions": FRAMES // 2, "max_target_positions": 48, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": [], "begin_suppress_tokens": [],
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "base": {},
    "128 bands, a short decoder, as large-v3-turbo": {"num_mel_bins": 128, "encoder_layers": 3, "decoder_layers": 1},
    "other heads in the decoder": {"decoder_attention_heads": 8},
    "scaled embeddings off, one head": {"encoder_attention_heads": 1, "decoder_attention_heads": 1},
}


def make_whisper(seed: int = 0, **changed: Any) -> PreTrainedModel:
    """A random Whisper in float32. Norms get weights and biases that matter, and channels differ in size."""
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(WhisperConfig(**{**TINY, **changed})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                own = torch.rand_like(parameter) + 0.5 if name.endswith("weight") else torch.randn_like(parameter) / 4
                parameter.copy_(own)
            elif parameter.ndim == 2 and "embed_positions" not in name:
                parameter.mul_(4.0)
            elif parameter.ndim == 1:
                parameter.normal_(0.0, 0.1)
    return model


def save_whisper(path: Path, seed: int = 0, **changed: Any) -> Path:
    """A checkpoint directory of it, without a tokenizer."""
    make_whisper(seed, **changed).save_pretrained(path)
    return path


def noise_windows(model: PreTrainedModel, count: int = 3, length: int = 12, seed: int = 1) -> SpeechWindows:
    """Windows of noise with random tokens."""
    rng = np.random.default_rng(seed)
    bands = model.config.num_mel_bins
    return SpeechWindows(
        tuple(
            SpeechWindow(
                rng.standard_normal((bands, FRAMES)).astype(np.float32),
                tuple(int(one) for one in rng.integers(3, 200, length)),
            )
            for _ in range(count)
        )
    )


@torch.no_grad()
def logits(model: PreTrainedModel, windows: SpeechWindows) -> Tensor:
    """The logits of all windows, [windows, length, vocabulary]."""
    features = torch.from_numpy(np.stack([one.features for one in windows.windows]))
    tokens = torch.tensor([one.tokens for one in windows.windows])
    found: Tensor = model(input_features=features, decoder_input_ids=tokens).logits.float()
    return found
