"""Questions about images: a text variant after the first, and log-likelihoods against transformers.

    python benchmarks/image_questions.py [--images 50] [--questions 4] [--layers 6] [--dir DIR] [--tokenizer DIR]

The model has random weights: a Qwen3-VL with a text model of width 256 and a tower of width 512 with 8 blocks, half the
width of that of Qwen3-VL-2B. An image of 448 x 448 pixels takes 196 tokens. Questions have 24 tokens, answers 4.

1. A second text variant, Q8_0 after F32, answers one question about each image: with the embeddings that the first
   variant left in the store, and without a store. Target: at least 3 times as many images per second.
2. Log-likelihoods of all questions, in float32 on the same cores: this program, which encodes an image once and shares
   the prefix with it, against transformers with one forward pass per question. Target: at least 3 times as fast.

Nearly all of the time is that of the tower, so with q questions about each image the ratio is at most q times the time
of transformers' tower per time of the engine's own. Ratios are printed for the wall clock and for CPU time, which other
programs on the machine change less (with --threads 1: waiting threads of llama.cpp take CPU time too).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from export import TOKENIZER, machine, say

from converters.export import export, open_source
from converters.projector_source import ProjectorSource
from images.file import ImageFile, open_image
from images.preprocessing import read_preprocessing
from sweep.backends.base import PlacedImage, ScoreRequest
from sweep.backends.embedding_store import EmbeddingStore
from sweep.backends.image_options import ImageOptions
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.torch import TorchBackend

SIDE, PATCH, MERGE = 448, 16, 2
SETTINGS = {
    "image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": PATCH, "merge_size": MERGE,
    "temporal_patch_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}  # fmt: skip


def make_model(directory: Path, tokenizer: Path, layers: int) -> None:
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vocabulary = 151_936
    text = {
        "vocab_size": vocabulary, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10]},
    }  # fmt: skip
    vision = {
        "depth": 8, "hidden_size": 512, "num_heads": 8, "intermediate_size": 2048, "out_hidden_size": 256,
        "patch_size": PATCH, "num_position_embeddings": 2304, "deepstack_visual_indexes": [2, 4, 6],
    }  # fmt: skip
    torch.manual_seed(0)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    Qwen3VLForConditionalGeneration(config).float().save_pretrained(directory)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, directory / file.name)
    (directory / "preprocessor_config.json").write_text(json.dumps(SETTINGS))


def some_images(directory: Path, n: int) -> list[ImageFile]:
    from PIL import Image

    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(directory / f"{i}.png")
        found.append(open_image(directory / f"{i}.png"))
    return found


def some_questions(images: Sequence[ImageFile], each: int) -> list[ScoreRequest]:
    rng = np.random.default_rng(1)
    start = tuple(rng.integers(1000, 100_000, 12).tolist())
    requests = []
    for image in images:
        for _ in range(each):
            question, answer = (tuple(rng.integers(1000, 100_000, n).tolist()) for n in (24, 4))
            requests.append(ScoreRequest(start + question, answer, (PlacedImage(image, len(start)),)))
    return requests


@dataclass(frozen=True)
class Spent:
    """Seconds of the wall clock and of CPU time; `tower` is the wall clock of encoding images."""

    wall: float
    cpu: float
    tower: float = 0.0


def seconds(work: Callable[[], Any]) -> tuple[Spent, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), result


def ratios(other: Spent, own: Spent) -> str:
    return f"{other.wall / own.wall:.1f} | {other.cpu / own.cpu:.1f}"


def scored_by(backend: Any, requests: Sequence[ScoreRequest], warm_up: ImageFile) -> tuple[Spent, Any]:
    """The time and the scores of requests, after one image was encoded and one request without an image scored."""
    encode, spent = backend._encoder.encode, []

    def timed(image: ImageFile) -> Any:
        took, found = seconds(lambda: encode(image))
        spent.append(took.wall)
        return found

    encode(warm_up)
    backend.loglikelihoods([replace(requests[0], images=())])
    backend._encoder.encode = timed
    took, scores = seconds(lambda: backend.loglikelihoods(requests))
    return replace(took, tower=sum(spent)), scores


def by_transformers(directory: Path, requests: Sequence[ScoreRequest], threads: int) -> tuple[Spent, list[float]]:
    """The time and the log-likelihoods with one forward pass per question."""
    import torch
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(threads)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    preprocessing, image_token = read_preprocessing(directory), model.config.image_token_id

    def score(request: ScoreRequest) -> float:
        (placed,) = request.images
        grid = preprocessing.grid(placed.image)
        before, after = request.context[: placed.at], request.context[placed.at :]
        tokens = torch.tensor([[*before, *[image_token] * grid.tokens, *after, *request.continuation]])
        n = len(request.continuation)
        with torch.inference_mode():
            logits = model(
                input_ids=tokens[:, :-1],
                pixel_values=torch.from_numpy(preprocessing.patches(preprocessing.resized(placed.image))),
                image_grid_thw=torch.tensor([[1, MERGE * grid.rows, MERGE * grid.columns]]),
                mm_token_type_ids=(tokens[:, :-1] == image_token).int(),
                use_cache=False,
                logits_to_keep=n,
            ).logits[0]
        return float(logits.log_softmax(-1)[range(n), list(request.continuation)].sum())

    score(requests[0])  # warm-up
    return seconds(lambda: [score(request) for request in requests])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--questions", type=int, default=4, help="questions about each image")
    parser.add_argument("--layers", type=int, default=6, help="layers of the text model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dir", type=Path, help="directory that keeps the model; default: a temporary one")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    arguments = parser.parse_args()
    if not (arguments.tokenizer / "tokenizer.json").is_file():
        raise SystemExit(
            f"{arguments.tokenizer}: has no tokenizer.json; give the tokenizer directory of a Qwen model by --tokenizer"
        )
    with tempfile.TemporaryDirectory() if arguments.dir is None else nullcontext(arguments.dir) as name:
        measure(Path(name).resolve(), arguments)


def measure(directory: Path, arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(arguments.threads)
    model = directory / f"vl-{arguments.layers}"
    files = {quant: model / f"{quant}.gguf" for quant in ("F32", "Q8_0")}
    if not (model / "mmproj-F16.gguf").is_file():
        say("making the model")
        make_model(model, arguments.tokenizer, arguments.layers)
        export(open_source(model), files)
        towers = {quant: model / f"mmproj-{quant}.gguf" for quant in ("F32", "F16")}
        export(ProjectorSource(open_source(model)), towers)
    *images, warm_up = some_images(directory, arguments.images + 1)
    every = some_questions(images, arguments.questions)
    first = every[:: arguments.questions]
    options = ImageOptions(read_preprocessing(model), model / "mmproj-F32.gguf")
    exact = LlamaOptions(n_threads=arguments.threads, type_k="f32", type_v="f32", flash_attn="off")

    usual = LlamaOptions(n_threads=arguments.threads)  # as in a sweep: flash attention, f16 cache

    def scored(
        file: Path, requests: Sequence[ScoreRequest], images: ImageOptions, engine: LlamaOptions = exact
    ) -> tuple[Spent, Any]:
        backend = LlamaBackend(file, replace(engine, images=images))
        spent = scored_by(backend, requests, warm_up)
        backend.close()
        return spent

    with tempfile.TemporaryDirectory() as cache:
        store = replace(options, store=EmbeddingStore(Path(cache)))
        filling, _ = scored(files["F32"], first, store)
        stored, with_store = scored(files["Q8_0"], first, store)
    encoded, without = scored(files["Q8_0"], first, options)
    assert with_store == without
    ours, our_scores = scored(files["F32"], every, options)
    sweeps, _ = scored(files["F32"], every, replace(options, projector=model / "mmproj-F16.gguf"), usual)
    backend = TorchBackend.open(model, dtype="float32", images=replace(options, projector=None))
    torch_ours, torch_scores = scored_by(backend, every, warm_up)
    backend.close()
    theirs, their_scores = by_transformers(model, every, arguments.threads)
    n = len(every)
    far = [
        max(abs(score.logprob - other) for score, other in zip(scores, their_scores, strict=True))
        for scores in (our_scores, torch_scores)
    ]
    print(f"{machine()}; {arguments.threads} threads; load {os.getloadavg()[0]:.1f}\n")
    print("| what | this program | of it the tower | other | ratio | ratio in CPU time | target |")
    print("|---|---|---|---|---|---|---|")
    again = [f"{len(first) / spent.wall:.1f}" for spent in (stored, encoded)]
    what = "images per second, second text variant: stored embeddings, encoded again"
    print(f"| {what} | {again[0]} | | {again[1]} | {ratios(encoded, stored)} | 3 |")
    engines = {
        "llama.cpp F32": ours,
        "llama.cpp F32 with an F16 projector and flash attention, as in a sweep": sweeps,
        "torch F32": torch_ours,
    }
    for name, spent in engines.items():
        what = f"{n} questions on {len(images)} images, s: {name}, transformers F32"
        print(f"| {what} | {spent.wall:.1f} | {spent.tower:.1f} | {theirs.wall:.1f} | {ratios(theirs, spent)} | 3 |")
    print(
        f"\nThe first variant with the store: {len(first) / filling.wall:.1f} images per second. Log-likelihoods"
        f" differ from transformers' by at most {far[0]:.4f} (llama.cpp) and {far[1]:.4f} (torch)."
    )


if __name__ == "__main__":
    main()
