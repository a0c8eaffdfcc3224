"""Memory of calibrating the vision tower of Qwen3-VL-4B: anonymous memory (RssAnon), sampled while it runs.

    python benchmarks/tower_memory.py [--blocks 24] [--images 4] [--side 512] [--recipe w8a8+vision] [--dir DIR]

The checkpoint has random weights in bfloat16: a tower of the shape of Qwen3-VL-4B's (width 1024, feed-forward 4096, a
merger and three DeepStack mergers to 2560) and a text model with one small layer. Each step runs in a process of its
own. Expected: the largest part of the tower in float32, the patches of all images between two blocks, and the features
of the images; for the second step also the int8 weights of the finished parts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

WIDTH, INNER, HEADS, OUT, PATCH, MERGE = 1024, 4096, 16, 2560, 16, 2
STEPS = ("features", "quantize")
SETTINGS = {
    "image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": PATCH, "merge_size": MERGE,
    "temporal_patch_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}  # fmt: skip
MIB = 2**20


def anonymous() -> int:
    """RssAnon of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def peak(found: list[int]) -> Iterator[None]:
    """Append what RssAnon grew by at most inside the block, sampled every 5 ms."""
    before, ended = anonymous(), threading.Event()
    highest = [before]

    def sample() -> None:
        while not ended.wait(0.005):
            highest[0] = max(highest[0], anonymous())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    found.append(max(highest[0], anonymous()) - before)


def make_model(directory: Path, blocks: int) -> None:
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = {
        "vocab_size": 1024, "hidden_size": OUT, "intermediate_size": 256, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10]},
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "depth": blocks, "hidden_size": WIDTH, "num_heads": HEADS, "intermediate_size": INNER, "out_hidden_size": OUT,
        "patch_size": PATCH, "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [blocks // 4, blocks // 2, 3 * blocks // 4],
    }  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, image_token_id=1000)
    Qwen3VLForConditionalGeneration(config).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(SETTINGS))


def some_images(directory: Path, n: int, side: int) -> None:
    from PIL import Image

    for old in directory.glob("*.png"):  # of another call with the same --dir
        old.unlink()
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(directory / f"{i}.png")


def run_step(step: str, model: Path, images: Path, recipe: str) -> None:
    """One step in this process; prints its peak in bytes as JSON."""
    import torch

    from images.file import open_image
    from images.preprocessing import read_preprocessing
    from int8.model import open_model
    from int8.quantize_tower import quantize_tower
    from int8.recipe import recipe as int8_recipe
    from int8.samples import ImagePrompt, ImagePrompts
    from int8.tower_inputs import image_features

    torch.set_num_threads(1)
    opened = open_model(model)
    files = [open_image(file) for file in sorted(images.glob("*.png"))]
    settings, cpu = read_preprocessing(model), torch.device("cpu")
    samples = ImagePrompts(tuple(ImagePrompt((1000,), (file,)) for file in files), 1000, settings)
    found: list[int] = []
    with peak(found):
        if step == "features":
            image_features(opened.model, settings, files, cpu, torch.bfloat16)
        else:
            quantize_tower(opened.model, samples, int8_recipe(recipe), cpu)
    print(json.dumps({"peak": found[0], "patches": sum(settings.grid(file).tokens * MERGE**2 for file in files)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--side", type=int, default=512, help="pixels of an image's sides")
    parser.add_argument("--recipe", default="w8a8+vision")
    parser.add_argument("--dir", type=Path, help="directory that keeps the model; default: a temporary one")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() if arguments.dir is None else nullcontext(arguments.dir) as name:
        model = Path(name).resolve() / f"tower-{arguments.blocks}"
        if arguments.step:
            run_step(arguments.step, model, model.parent / "images", arguments.recipe)
            return
        measure(model, arguments)


def measure(model: Path, arguments: argparse.Namespace) -> None:
    if not (model / "config.json").is_file():
        model.mkdir(parents=True, exist_ok=True)
        make_model(model, arguments.blocks)
    images = model.parent / "images"
    images.mkdir(exist_ok=True)
    some_images(images, arguments.images, arguments.side)
    tower = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    block = 4 * (4 * WIDTH**2 + 2 * WIDTH * INNER)
    merger = 4 * ((MERGE**2 * WIDTH) ** 2 + MERGE**2 * WIDTH * OUT)
    print(
        f"checkpoint {tower / MIB:.0f} MiB; in float32 a block {block / MIB:.0f} MiB, a merger {merger / MIB:.0f} MiB"
    )
    for step in STEPS:
        own = [f"--{key}={getattr(arguments, key)}" for key in ("blocks", "recipe")]
        command = [sys.executable, __file__, *own, f"--dir={model.parent}", f"--step={step}"]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        patches = 4 * WIDTH * found["patches"]
        features = 2 * 4 * OUT * found["patches"] // MERGE**2
        words = f"patches {patches / MIB:.0f} MiB, features {features / MIB:.0f} MiB"
        print(f"{step}: {found['peak'] / MIB:.0f} MiB of anonymous memory at most ({words})")


if __name__ == "__main__":
    main()
