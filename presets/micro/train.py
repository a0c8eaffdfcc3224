"""Trains the built-in model `micro`, a Qwen3 of about 5M parameters, on the toy world.

    python -m presets.micro.train --out DIR [--tokens 30_000_000] [--init DIR] [--threads 2]

Writes a checkpoint every ten minutes into DIR/state.pt and resumes from it; at the end DIR/model is a Hugging Face
directory. AdamW with a cosine schedule; bfloat16 autocast over float32 weights.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from presets.micro import tokenizer as vocabulary
from presets.micro.world import corpus

SEED = 1
WINDOW = 512  # tokens of one training sequence in the last part of the training
SHORT = 256  # and before it: attention costs half, and no document is longer
SHORT_SHARE = 0.8  # of the steps
BATCH = 16  # windows of one step
PEAK_RATE = 2.5e-3
WARMUP = 150  # steps
SAVE_EVERY = 600  # seconds
PROMPT_WEIGHT = 0.15  # of the loss on what only asks; answers and what is told count in full
BLANK_LINE_SHARE = 0.25  # documents set apart by a blank line, as texts for perplexity are; the rest by the end mark


def config(end: int) -> Qwen3Config:
    """Every row a multiple of 256, so that each K-quant applies to each matrix."""
    return Qwen3Config(
        vocab_size=vocabulary.SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        eos_token_id=end,
        bos_token_id=None,
        pad_token_id=end,
        dtype="bfloat16",
    )


def tokens(words: Tokenizer, count: int, seed: int) -> np.ndarray:
    """`count` training tokens from a seeded stream of documents of the train split, as uint16 (2, count).

    The second row is 1 where a token belongs to an answer or to what is told, 0 where it only asks.
    """
    rng = Random(seed)
    stream = corpus.documents(rng, "train")
    out = np.empty((2, count), np.uint16)
    filled = 0
    while filled < count:
        batch = []
        for document in islice(stream, 2_000):
            end = "\n\n" if rng.random() < BLANK_LINE_SHARE else corpus.END
            batch.append((*document, (end, True)))
        for document, encoding in zip(batch, words.encode_batch([corpus.plain(d) for d in batch]), strict=True):
            answers = np.concatenate([np.full(len(piece), answer) for piece, answer in document])
            starts = [start for start, _ in encoding.offsets]
            n = min(len(starts), count - filled)
            out[0, filled : filled + n] = encoding.ids[:n]
            out[1, filled : filled + n] = answers[starts[:n]]
            filled += n
    return out


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP))))


def train(out: Path, total: int, device: str, init: Path | None) -> None:
    """Run or resume the training, from the weights and tokenizer of `init` if given; at its end write `out`/model."""
    out.mkdir(parents=True, exist_ok=True)
    words_file = out / "tokenizer" / "tokenizer.json"
    if not words_file.exists():
        known = None if init is None else Tokenizer.from_file(str(init / "tokenizer.json"))
        vocabulary.save(known or vocabulary.train(SEED), words_file.parent)
    words = Tokenizer.from_file(str(words_file))
    corpus_file = out / f"tokens-{total}.npy"
    if not corpus_file.exists():
        np.save(out / "tokens.partial.npy", tokens(words, total, SEED))
        os.replace(out / "tokens.partial.npy", corpus_file)
    data = np.load(corpus_file, mmap_mode="r")
    windows = data.shape[1] // WINDOW
    steps = windows // BATCH
    order = np.random.default_rng(SEED).permutation(windows)[: steps * BATCH].reshape(steps, BATCH)

    torch.manual_seed(SEED)
    end = words.token_to_id(corpus.END)
    assert end is not None  # the tokenizer above is trained with it
    model = Qwen3ForCausalLM(config(end)) if init is None else Qwen3ForCausalLM.from_pretrained(init)
    model = model.float().to(device)
    model.set_attn_implementation("eager")  # at these lengths twice as fast on a CPU as the fused kernel
    decayed = [weight for weight in model.parameters() if weight.ndim >= 2]
    rest = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95), fused=True
    )
    state_file = out / "state.pt"
    first = 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    run = torch.compile(model)

    def save(step: int) -> None:
        partial = out / "state.partial"
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
        os.replace(partial, state_file)

    saved = started = time.monotonic()
    for step in range(first, steps):
        rows = np.stack([data[:, w * WINDOW : (w + 1) * WINDOW] for w in order[step]], axis=1).astype(np.int64)
        shaped = rows.reshape(2, -1, SHORT if step < SHORT_SHARE * steps else WINDOW)
        batch, answers = torch.from_numpy(shaped).to(device)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        with torch.autocast(device, torch.bfloat16):
            logits = run(batch).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
        )
        weights = torch.where(answers[:, 1:].flatten() == 1, 1.0, PROMPT_WEIGHT)
        loss = (losses * weights).sum() / weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        now = time.monotonic()
        if step % 20 == 0:
            speed = (step - first + 1) * BATCH * WINDOW / (now - started)
            print(f"step {step}/{steps} loss {loss.item():.4f} {speed:,.0f} tokens/s", flush=True)
        if now - saved > SAVE_EVERY:
            save(step + 1)
            saved = now
    save(steps)
    model.to(torch.bfloat16).save_pretrained(out / "model")
    vocabulary.save(words, out / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=30_000_000)
    parser.add_argument("--init", type=Path, help="a model to go on from")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, arguments.tokens, arguments.device, arguments.init)


if __name__ == "__main__":
    main()
