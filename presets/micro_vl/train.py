"""Trains micro-vl on seeded drawings and on text.

    python -m presets.micro_vl.train --out DIR [--steps 1350] [--threads 1] [--init DIR]

With `--init` training continues from the weights of a trained model, with the steps after those of the tower alone.
Each step draws its drawings itself, so nothing is stored. Every three minutes the state is saved to DIR/state.pt, from
which training resumes. At the end DIR/model is a Hugging Face directory. Optimizer: AdamW, in float32.
"""

from __future__ import annotations

import argparse
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from presets.micro_vl import files, shape
from presets.micro_vl.world import corpus
from presets.micro_vl.world.charts import TOP
from presets.micro_vl.world.drawing import LETTERS, SLOT, TOKEN, Drawing, drawings

SEED = 1
IMAGES = 7  # of each kind per step
TOWER_STEPS, TOWER_IMAGES = 250, 10  # at first only the tower learns
TOWER_EVERY = 4  # after that the tower learns in every fourth step: it can read before the decoder finds what is asked
READING_WEIGHT = 0.5  # of the loss of what is read off image tokens, after that
KEY_WEIGHT = 0.5  # of the loss of an answer at the last word of its question
BLANK_WEIGHT = 0.2  # of a slot without a letter
CHAT_QUESTIONS, PLAIN_QUESTIONS = 2, 6  # at most, about one image: the chat template is long
CHAT_SHARE = 0.2  # of the batches are in the chat template, the others are plain lines
WINDOW = 256  # tokens of text, every TEXT_EVERY steps
TEXT_EVERY = 4
CHAT_END = "<|endoftext|>"
FIRST_STEPS, FIRST_SHARES = 200, (1, 0, 0)  # training begins with clean drawings only
SHARES = (1, 1, 1)  # of the levels, after that
PEAK_RATE = 1.2e-3
WARMUP = 60  # steps
DECAY_SHARE = 0.4  # of the steps, at the end of the training
SAVE_EVERY = 180  # seconds
CHECK_EVERY = 100  # steps
CHECK_IMAGES = 60


@dataclass(frozen=True)
class Batch:
    """Conversations about images of one size.

    ids, answer: (conversations, tokens); the tokens of an image have the id of image_pad. `answer` is true for a token
    that training teaches. positions: (3, conversations, tokens). patches: (patches, values). letters: of every slot of
    every image token in order; bars: of its column. keys: for each question the conversation, the token before the
    question mark, and the id of the first token of the answer that is no blank.
    """

    ids: Tensor
    answer: Tensor
    positions: Tensor
    patches: Tensor
    grid: Tensor
    letters: Tensor
    bars: Tensor
    keys: Tensor


class Reader(nn.Module):
    """Reads letters and bars off the embedding of each image token; it teaches the tower, and is not kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.letters = nn.Linear(width, TOKEN // SLOT * len(LETTERS))
        self.bars = nn.Linear(width, TOP + 1)

    def loss(self, embeddings: Tensor, found: Batch) -> Tensor:
        """The loss on the letters in each token and on the bar in its column."""
        weights = torch.ones(len(LETTERS))
        weights[0] = BLANK_WEIGHT
        letters = self.letters(embeddings).view(-1, len(LETTERS))
        read = nn.functional.cross_entropy(letters, found.letters, weights)
        if not found.bars.any():
            return read
        return read + nn.functional.cross_entropy(self.bars(embeddings), found.bars)


def patches(images: Sequence[Drawing]) -> Tensor:
    """What Qwen2VLImageProcessor makes of grey images that need no resizing: (images * patches, values)."""
    size, merge = shape.PATCH, shape.MERGE
    pixels = np.stack([image.picture.pixels for image in images]).astype(np.float32) / 127.5 - 1
    count, height, width = pixels.shape
    split = pixels.reshape(count, height // size // merge, merge, size, width // size // merge, merge, size)
    ordered = split.transpose(0, 1, 4, 2, 5, 3, 6).reshape(-1, 1, size * size)
    repeated = np.broadcast_to(ordered, (len(ordered), 3 * shape.FRAMES, size * size))
    return torch.from_numpy(repeated.reshape(len(ordered), -1).copy())


def batch(words: Tokenizer, images: Sequence[Drawing], asked: Sequence[Sequence[tuple[str, str]]], chat: bool) -> Batch:
    """The conversations with the questions `asked` about each image."""
    height, width = images[0].picture.pixels.shape
    unit = shape.PATCH * shape.MERGE
    rows, columns = height // unit, width // unit
    pad = words.token_to_id("<|image_pad|>")
    assert pad is not None  # shape.tokenizer has it
    ids, answers, keys = [], [], []
    for row, questions in enumerate(asked):
        pieces = corpus.conversation(questions, chat)
        encoding = words.encode("".join(piece for piece, _ in pieces))
        is_answer = np.repeat([taught for _, taught in pieces], [len(piece) for piece, _ in pieces])
        taught = is_answer[[start for start, _ in encoding.offsets]]
        at = encoding.ids.index(pad)
        keys += [(row, key + rows * columns - 1, encoding.ids[first]) for key, first in _keys(pieces, encoding)]
        ids.append(encoding.ids[:at] + [pad] * (rows * columns) + encoding.ids[at + 1 :])
        answers.append([False] * (at + rows * columns) + list(taught[at + 1 :]))
    longest = max(map(len, ids))
    count = len(ids)
    padded, mask = torch.zeros(count, longest, dtype=torch.long), torch.zeros(count, longest, dtype=torch.bool)
    for row, (tokens, flags) in enumerate(zip(ids, answers, strict=True)):
        padded[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = torch.tensor(flags)
    before = ids[0].index(pad)  # the same in all conversations
    down, along = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    image = torch.stack([torch.zeros_like(down), down, along])
    after = torch.arange(longest - before - rows * columns) + before + max(rows, columns)
    positions = torch.cat([torch.arange(before).expand(3, -1), image + before, after.expand(3, -1)], dim=1)
    grid = torch.tensor([[1, rows * shape.MERGE, columns * shape.MERGE]]).expand(count, -1)
    slots = TOKEN // SLOT
    letters = np.stack([image.picture.letters for image in images]).reshape(-1, slots)
    bars = np.stack([np.tile(image.picture.bars, rows) for image in images])
    return Batch(
        padded,
        mask,
        positions[:, None].expand(3, count, -1),
        patches(images),
        grid,
        torch.from_numpy(letters.reshape(-1)),
        torch.from_numpy(bars.reshape(-1)),
        torch.tensor(keys),
    )


def _keys(pieces: list[corpus.Piece], encoding: Encoding) -> Iterator[tuple[int, int]]:
    """For each question its last token before the question mark, and the first token of its answer that is no blank."""
    starts = [start for start, _ in encoding.offsets]
    at = question = 0
    for piece, taught in pieces:
        if taught:
            mark = encoding.offsets[bisect_right(starts, question) - 1][0]
            yield bisect_left(starts, mark) - 1, bisect_left(starts, at + (piece[0] == " " and piece[1].isdigit()))
        elif "?" in piece:
            question = at + piece.rindex("?")
        at += len(piece)


def last_states(model: Qwen3VLForConditionalGeneration, found: Batch, seen: Any) -> Tensor:
    """The last hidden states, (conversations, tokens, width). `seen` is what the tower makes of the images.

    The mask is causal, so the padding at the end changes nothing.
    """
    is_image = found.ids == model.config.image_token_id
    embedded = model.model.language_model.embed_tokens(found.ids)
    return model.model.language_model(
        inputs_embeds=embedded.masked_scatter(is_image[..., None], seen.pooler_output),
        position_ids=found.positions,
        visual_pos_masks=is_image,
        deepstack_visual_embeds=seen.deepstack_features,
        use_cache=False,
    ).last_hidden_state


def answer_logits(model: Qwen3VLForConditionalGeneration, found: Batch, states: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at the tokens before those of the answers, and these tokens."""
    taught = found.answer[:, 1:]
    return model.lm_head(states[:, :-1][taught]), found.ids[:, 1:][taught]


def key_logits(model: Qwen3VLForConditionalGeneration, found: Batch, states: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at the last word of each question, and the first token of its answer.

    That the answer is already known there teaches the model to look in the image for what the word names.
    """
    row, position, answer = found.keys.T
    return model.lm_head(states[row, position]), answer


def text_window(words: Tokenizer, rng: Random) -> Tensor:
    """A window of documents of the train split."""
    tokens: list[int] = []
    stream = corpus.documents(rng, "train")
    while len(tokens) < WINDOW:
        tokens += words.encode(next(stream) + ("\n\n" if rng.random() < 0.7 else CHAT_END)).ids
    return torch.tensor(tokens[:WINDOW])


def loss_of_step(
    model: Qwen3VLForConditionalGeneration, readers: Sequence[Reader], words: Tokenizer, step: int
) -> dict[str, float]:
    """Add the gradients of a step; the losses of its parts. At first only the tower learns, from the `readers`."""
    rng = Random(f"{SEED} {step}")
    losses = {}
    only_tower = step < TOWER_STEPS
    shares = FIRST_SHARES if step < FIRST_STEPS else SHARES
    for kind in corpus.KINDS:
        count = TOWER_IMAGES if only_tower else IMAGES
        images = list(islice(drawings(corpus.KINDS[kind], rng, "train", shares), count))
        chat = rng.random() < CHAT_SHARE
        most = CHAT_QUESTIONS if chat else PLAIN_QUESTIONS
        asked = [rng.sample(image.content.questions, min(most, len(image.content.questions))) for image in images]
        found = batch(words, images, asked, chat)
        with torch.set_grad_enabled(only_tower or step % TOWER_EVERY == 0):
            seen = model.model.visual(found.patches, grid_thw=found.grid)
            outputs = (seen.pooler_output, *seen.deepstack_features)
            pairs = zip(readers, outputs, strict=True)
            loss = torch.stack([reader.loss(output, found) for reader, output in pairs]).sum()
        losses[f"{kind} reading"] = loss.item()
        if not only_tower:
            states = last_states(model, found, seen)
            answers = nn.functional.cross_entropy(*answer_logits(model, found, states))
            known = nn.functional.cross_entropy(*key_logits(model, found, states))
            losses |= {f"{kind} key": known.item(), kind: answers.item()}
            loss = READING_WEIGHT * loss + KEY_WEIGHT * known + answers
        loss.backward()
    if (step + 2) % TEXT_EVERY or only_tower:
        return losses
    window = text_window(words, rng)[None]
    logits = model.lm_head(model.model.language_model(window, use_cache=False).last_hidden_state[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
    loss.backward()
    return losses | {"text": loss.item()}


@torch.inference_mode()
def accuracy(model: Qwen3VLForConditionalGeneration, words: Tokenizer, kind: str, chat: bool) -> float:
    """Share of questions about drawings of the validation split that are answered exactly, one question an image."""
    rng = Random(f"{SEED} {kind}")
    images = list(islice(drawings(corpus.KINDS[kind], rng, "validation"), CHECK_IMAGES))
    found = batch(words, images, [(rng.choice(image.content.questions),) for image in images], chat)
    states = last_states(model, found, model.model.visual(found.patches, grid_thw=found.grid))
    logits, wanted = answer_logits(model, found, states)
    right = torch.ones_like(found.answer[:, 1:])
    right[found.answer[:, 1:]] = logits.argmax(-1) == wanted
    return right.all(1).float().mean().item()


def rate(step: int, start: int, steps: int) -> float:
    """Learning rate: constant after the warm-up, which begins at `start`, then decreasing linearly."""
    return PEAK_RATE * min(1, (step - start + 1) / WARMUP, 0.02 + (steps - step) / (DECAY_SHARE * steps))


def train(out: Path, steps: int, init: Path | None) -> None:
    """Run or resume the training, from the weights of `init` if given; then write `out`/model."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    words = shape.tokenizer()
    model = shape.model(words)
    if init is not None:
        model = type(model).from_pretrained(init, dtype=torch.float32)
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    width = model.config.text_config.hidden_size
    readers = [Reader(width) for _ in range(1 + len(model.config.vision_config.deepstack_visual_indexes))]
    reading = nn.ModuleList(readers)
    matrices += list(reading.parameters())
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    state_file = out / "state.pt"
    start = first = 0 if init is None else TOWER_STEPS
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        reading.load_state_dict(state["readers"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    def save(step: int) -> None:
        partial = out / "state.partial"
        states = {"model": model.state_dict(), "readers": reading.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(states | {"step": step}, partial)
        os.replace(partial, state_file)

    saved = started = time.monotonic()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, start, steps)
        optimizer.zero_grad(set_to_none=True)
        losses = loss_of_step(model, readers, words, step)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        now = time.monotonic()
        if step % 20 == 0:
            parts = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            print(f"step {step}/{steps} {parts} {(now - started) / (step - first + 1):.2f} s/step", flush=True)
        if step % CHECK_EVERY == CHECK_EVERY - 1 and step > TOWER_STEPS:
            right = (
                f"{kind} {accuracy(model, words, kind, step // CHECK_EVERY % 2 == 0):.2f}" for kind in corpus.KINDS
            )
            print("   right:", *right, flush=True)
        if now - saved > SAVE_EVERY:
            save(step + 1)
            saved = now
    save(steps)
    files.save(model, words, out / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1350)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--init", type=Path, help="directory of a trained model to continue from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    train(arguments.out, arguments.steps, arguments.init)


if __name__ == "__main__":
    main()
