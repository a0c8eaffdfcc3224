"""Tiny random models of every family that takes images, with the settings of their image processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import make_tokenizer
from families import make_with_tower
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedModel

from images.file import ImageFile, open_image
from images.preprocessing import Preprocessing
from int8.samples import ImagePrompt, ImagePrompts
from sweep.backends.base import GenerationRequest, PlacedImage, ScoreRequest

IMAGE_TOKEN = 505  # ids without text in the tiny vocabulary; the model's own forward pass needs one for images


def make_vision_model(family: str, directory: Path) -> PreTrainedModel:
    """Save a float32 model with its tokenizer and processor settings; returns the model, in evaluation mode."""
    layers = {"num_hidden_layers": 3} if family in ("qwen3vl", "qwen3vlmoe") else {}  # more than have DeepStack
    make_with_tower(family, directory, **layers)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    config = model.config
    config.image_token_id, config.video_token_id = IMAGE_TOKEN, IMAGE_TOKEN + 1
    config.vision_start_token_id, config.vision_end_token_id = IMAGE_TOKEN + 2, IMAGE_TOKEN + 3
    with torch.no_grad():
        # as large as trained ones: llama.cpp uses 0 as epsilon of qwen2vl's norms
        model.get_input_embeddings().weight.mul_(4)
        for parameter in model.model.visual.parameters():  # so that images differ
            if parameter.ndim > 1:
                parameter.mul_(2)
    model.save_pretrained(directory)
    make_tokenizer(directory)
    path = directory / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    unit = (settings["patch_size"] * settings["merge_size"]) ** 2
    settings |= {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 2 * unit, "longest_edge": 40 * unit},
    }
    path.write_text(json.dumps(settings))
    return model


def save_image(path: Path, width: int, height: int, seed: int) -> Path:
    """Save a PNG with some large and some small shapes."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 4, 5), generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    pixels += 0.2 * torch.rand((3, height, width), generator=generator)
    Image.fromarray((pixels.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return path


def some_images(directory: Path) -> list[ImageFile]:
    """Images of different sizes and shapes: wide, tall and square."""
    sizes = [(200, 120), (64, 300), (130, 130)]
    return [open_image(save_image(directory / f"{i}.png", *size, i)) for i, size in enumerate(sizes)]


def image_requests(images: list[ImageFile], seed: int = 0) -> list[ScoreRequest]:
    """Questions about the images with shared prefixes, a prompt with three images, and prompts without an image."""
    rng = np.random.default_rng(seed)
    tokens = lambda n: tuple(rng.integers(1, 500, n).tolist())  # noqa: E731
    requests = []
    for image in images:
        start = tokens(5)
        requests += [ScoreRequest(start + tokens(6), tokens(4), (PlacedImage(image, 5),)) for _ in range(3)]
    placed = (PlacedImage(images[0], 2), PlacedImage(images[1], 4), PlacedImage(images[0], 9))
    answer = ScoreRequest(tokens(9), tokens(3), placed)
    return [*requests, answer, ScoreRequest(tokens(9), tokens(3)), ScoreRequest(answer.context, tokens(1), placed)]


def questions_on_one_image(image: ImageFile, n: int = 9) -> list[GenerationRequest]:
    """Prompts that share their beginning and the image, and then differ; more than tests have slots."""
    rng = np.random.default_rng(1)
    start = tuple(rng.integers(1, 500, 3).tolist())
    ends = [tuple(rng.integers(1, 500, rng.integers(1, 6)).tolist()) for _ in range(n)]
    return [GenerationRequest(start + end, 2 + i % 3, images=(PlacedImage(image, 3),)) for i, end in enumerate(ends)]


def own_logits(model: PreTrainedModel, request: ScoreRequest, preprocessing: Preprocessing) -> torch.Tensor:
    """Logits (number of continuation tokens, n_vocab) by one forward pass, given token ids, pixels and grids."""
    ids: list[int] = []
    patches, grids = [], []
    for at in range(len(request.context) + 1):
        for placed in [placed for placed in request.images if placed.at == at]:
            grid = preprocessing.grid(placed.image)
            ids += [IMAGE_TOKEN] * grid.tokens
            patches.append(torch.from_numpy(preprocessing.patches(preprocessing.resized(placed.image))))
            grids.append([1, 2 * grid.rows, 2 * grid.columns])
        ids += request.context[at : at + 1]
    ids += request.continuation[:-1]
    tokens = torch.tensor([ids])
    inputs: dict[str, Any] = {}
    if patches:
        inputs = {
            "pixel_values": torch.cat(patches),
            "image_grid_thw": torch.tensor(grids),
            "mm_token_type_ids": (tokens == IMAGE_TOKEN).int(),
        }
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=tokens, **inputs, use_cache=False).logits[0]
    return logits[-len(request.continuation) :].float()


def image_prompts(images: list[ImageFile], preprocessing: Preprocessing) -> ImagePrompts:
    """Prompts of different lengths for calibration: with one image, with several, and without."""
    generator = torch.Generator().manual_seed(3)
    tokens = lambda n: torch.randint(1, 500, (n,), generator=generator).tolist()  # noqa: E731
    prompts = []
    for shown in ([images[0]], [images[0]], [images[1]], [images[2], images[0]], []):
        ids = tokens(3)
        for image in shown:
            ids += [IMAGE_TOKEN] * preprocessing.grid(image).tokens + tokens(4)
        prompts.append(ImagePrompt((*ids, *tokens(5)), tuple(shown)))
    return ImagePrompts(tuple(prompts), IMAGE_TOKEN, preprocessing)


def whole_inputs(prompt: ImagePrompt, preprocessing: Preprocessing) -> dict[str, Any]:
    """The inputs of transformers' whole model for one prompt: token ids, pixels and grids."""
    tokens = torch.tensor([prompt.tokens])
    if not prompt.images:
        return {"input_ids": tokens}
    grids = [preprocessing.grid(image) for image in prompt.images]
    patches = [preprocessing.patches(preprocessing.resized(image)) for image in prompt.images]
    return {
        "input_ids": tokens,
        "pixel_values": torch.from_numpy(np.concatenate(patches)),
        "image_grid_thw": torch.tensor([[1, 2 * grid.rows, 2 * grid.columns] for grid in grids]),
        "mm_token_type_ids": (tokens == IMAGE_TOKEN).int(),
    }
