"""Trains the built-in models on the toy world.

    python -m presets.micro.train --out DIR [--shape nano|micro|mini|micro-moe] [--tokens 30_000_000] [--init DIR]
        [--rate 1.5e-3] [--threads 2] [--dtype bfloat16|float32]

Every ten minutes it saves its state to DIR/state.pt, from which it resumes; at the end it writes DIR/model, a Hugging
Face directory. Optimizers: Muon, and AdamW for embeddings and norms. The weights are float32. They are multiplied in
bfloat16 (autocast), or in float32, which is 30 times as fast on a CPU without bfloat16 instructions.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer

from presets.micro import tokenizer as vocabulary
from presets.micro.muon import Muon
from presets.micro.shapes import SHAPES, Shape
from presets.micro.world import corpus

SEED = 1
WINDOW = 512  # tokens of one training sequence in the last part of the training
SHORT = 256  # tokens of one sequence before that: attention costs half, and no document is longer
SHORT_SHARE = 0.8  # of the steps
BATCH = 8  # windows per step
PEAK_RATE = 1.5e-3
WARMUP = 150  # steps
DECAY_SHARE = 0.35  # of the steps, at the end of the training
SAVE_EVERY = 600  # seconds
PROMPT_WEIGHT = 0.05  # weight of the loss on a token of a prompt
ANSWER_WEIGHT = 8.0  # minimum weight of the loss on a whole answer, so that a letter counts as much as a sentence
BLANK_LINE_SHARE = 0.25  # of documents end with a blank line, as in perplexity texts; the others with <|endoftext|>


def tokens(words: Tokenizer, count: int, seed: int) -> np.ndarray:
    """`count` training tokens from a seeded stream of documents of the train split, as uint16 (3, count).

    The first row has token ids. The second has the tokens' weights in the loss, in hundredths: a token of an answer or
    statement weighs 1, or more if the answer is short. The third has the tokens' roles.
    """
    rng = Random(seed)
    stream = corpus.documents(rng, "train")
    out = np.empty((3, count), np.uint16)
    filled = 0
    while filled < count:
        batch = []
        for document in islice(stream, 2_000):
            end = "\n\n" if rng.random() < BLANK_LINE_SHARE else corpus.END
            batch.append((*document, (end, corpus.Role.PROMPT)))
        for document, encoding in zip(batch, words.encode_batch([corpus.plain(d) for d in batch]), strict=True):
            piece_of = np.repeat(np.arange(len(document)), [len(piece) for piece, _ in document])
            pieces = piece_of[[start for start, _ in encoding.offsets]]
            lengths = np.maximum(1, np.bincount(pieces, minlength=len(document)))
            roles = np.array([role for _, role in document])
            weights = np.where(roles == corpus.Role.PROMPT, PROMPT_WEIGHT, np.maximum(1, ANSWER_WEIGHT / lengths))
            weights[-1] = 1  # the end of the document
            n = min(len(pieces), count - filled)
            out[0, filled : filled + n] = encoding.ids[:n]
            out[1, filled : filled + n] = np.round(100 * weights[pieces[:n]])
            out[2, filled : filled + n] = roles[pieces[:n]]
            filled += n
    return out


def rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate: constant after the warm-up, then decreasing linearly."""
    return min(1, (step + 1) / WARMUP, 0.02 + (steps - step) / (DECAY_SHARE * steps))


def optimizers_of(model: torch.nn.Module, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers; AdamW for embeddings, stacked experts, norms and vectors."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.ndim > 2 or (weight.ndim == 2 and "embed" in name)]
    norms = [weight for _, weight in named if weight.ndim < 2]
    groups = [{"params": others, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return [
        Muon(matrices, weight_decay=0.1, dtype=dtype),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True),
    ]


def train(
    shape: Shape, out: Path, total: int, device: str, init: Path | None, dtype: torch.dtype, peak_rate: float
) -> None:
    """Run or resume the training, starting from the weights and tokenizer of `init` if given; then write `out`/model.

    An additional loss after the shape's `recall_layers` makes these layers recall stated facts (deep supervision, arXiv
    1409.5185), so that the remaining layers can find the letter in front of the answer.
    """
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
    assert end is not None  # the tokenizer above always has it
    model = shape.model(end)
    if init is not None:
        model = type(model).from_pretrained(init)
    model = model.float().to(device)
    model.set_attn_implementation("eager")  # for these lengths twice as fast on a CPU as the fused kernel
    optimizers = optimizers_of(model, dtype)
    state_file = out / "state.pt"
    first = 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, known in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(known)
        first = state["step"]
    run = torch.compile(model, dynamic=False)  # with symbolic lengths it fails on Qwen3.5

    def save(step: int) -> None:
        partial = out / "state.partial"
        states = [optimizer.state_dict() for optimizer in optimizers]
        torch.save({"model": model.state_dict(), "optimizers": states, "step": step}, partial)
        os.replace(partial, state_file)

    saved = started = time.monotonic()
    for step in range(first, steps):
        rows = np.stack([data[:, w * WINDOW : (w + 1) * WINDOW] for w in order[step]], axis=1).astype(np.int64)
        shaped = rows.reshape(3, -1, SHORT if step < SHORT_SHARE * steps else WINDOW)
        batch, hundredths, roles = torch.from_numpy(shaped).to(device)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak_rate * rate_share(step, steps)
        with torch.autocast(device, torch.bfloat16, enabled=dtype is torch.bfloat16):
            result = run(batch, output_hidden_states=True)
        stated = roles[:, 1:] == corpus.Role.STATEMENT
        with torch.autocast(device, torch.bfloat16, enabled=dtype is torch.bfloat16):
            early = model.lm_head(model.model.norm(result.hidden_states[shape.recall_layers][:, :-1][stated]))
        losses = torch.nn.functional.cross_entropy(
            result.logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
        )
        recall = torch.nn.functional.cross_entropy(early.float(), batch[:, 1:][stated], reduction="none")
        weights = hundredths[:, 1:] / 100
        loss = ((losses * weights.flatten()).sum() + (recall * weights[stated]).sum()) / weights.sum()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
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
    parser.add_argument("--shape", choices=SHAPES, default="micro")
    parser.add_argument("--tokens", type=int, default=30_000_000)
    parser.add_argument("--init", type=Path, help="directory of a model to start from")
    parser.add_argument("--rate", type=float, default=PEAK_RATE, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of multiplications")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    shape = SHAPES[arguments.shape]
    train(shape, arguments.out, arguments.tokens, arguments.device, arguments.init, dtype, arguments.rate)


if __name__ == "__main__":
    main()
