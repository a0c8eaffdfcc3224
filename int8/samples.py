"""The calibration samples as a model reads them: pieces of a text, prompts with images, or windows of speech."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import InputError
from images.file import ImageFile
from images.preprocessing import Preprocessing
from int8.speech_samples import SpeechWindows
from int8.tower import patch_grid
from int8.tower_inputs import image_features


@dataclass(frozen=True)
class ImagePrompt:
    """A conversation as tokens; each image has its number of tokens, all with the model's `image_token_id`."""

    tokens: tuple[int, ...]
    images: tuple[ImageFile, ...] = ()


@dataclass(frozen=True)
class ImagePrompts:
    """Prompts with images, some perhaps without. Each of them is a sample, so samples have different lengths."""

    prompts: tuple[ImagePrompt, ...]
    image_token: int
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def images(self) -> list[ImageFile]:
        """The images, equal ones once."""
        return list({image.digest: image for prompt in self.prompts for image in prompt.images}.values())


Samples = Tensor | ImagePrompts | SpeechWindows
"""Pieces of a text, int64 [samples, length], prompts with images, or windows of speech."""


def sample_sizes(samples: Samples) -> tuple[int, int]:
    """The number of samples, and their length in tokens: the mean for prompts of different lengths, rounded."""
    if isinstance(samples, Tensor):
        return len(samples), samples.shape[1]
    return len(samples), round(token_count(samples) / max(1, len(samples)))


def token_count(samples: Samples) -> int:
    """The number of tokens of all samples."""
    if isinstance(samples, Tensor):
        return samples.numel()
    if isinstance(samples, SpeechWindows):
        return samples.n_tokens
    return sum(len(prompt.tokens) for prompt in samples.prompts)


def content(samples: Samples) -> bytes:
    """What the samples' statistics depend on, apart from the shape of a text's samples."""
    if isinstance(samples, Tensor):
        found: bytes = samples.numpy().tobytes()
        return found
    if isinstance(samples, SpeechWindows):
        return samples.digest.encode()
    prompts = [(prompt.tokens, [image.digest for image in prompt.images]) for prompt in samples.prompts]
    return hashlib.sha256(repr((prompts, samples.preprocessing)).encode()).digest()


@dataclass
class Batch:
    """Samples of equal length, [size, length].

    `inputs` are the arguments of the decoder for them. Where `image` [size, length] is True, a token belongs to an
    image; `deepstack` has, for each of the first layers, the features [image tokens, width] that are added to its
    outputs there.
    """

    size: int
    length: int
    inputs: dict[str, Tensor]
    image: Tensor | None = None
    deepstack: list[Tensor | None] = field(default_factory=list)

    def halves(self) -> list[Batch]:
        """Two batches with half of the samples each; itself if it has only one sample."""
        if self.size == 1:
            return [self]
        sizes = [self.size - self.size // 2, self.size // 2]
        # position_ids are [3, size, length], all others begin with the samples
        cut = {name: value.split(sizes, -2 if name == "position_ids" else 0) for name, value in self.inputs.items()}
        images: Sequence[Tensor | None] = [None, None] if self.image is None else self.image.split(sizes)
        counts = [0 if image is None else int(image.sum()) for image in images]
        stacked = [[None, None] if one is None else one.split(counts) for one in self.deepstack]
        return [
            Batch(
                sizes[i],
                self.length,
                {name: parts[i] for name, parts in cut.items()},
                images[i],
                [parts[i] for parts in stacked],
            )
            for i in (0, 1)
        ]

    def after_layer(self, index: int, out: Tensor) -> Tensor:
        """The next layer's inputs, from the outputs of layer `index`."""
        features = self.deepstack[index] if index < len(self.deepstack) else None
        if features is None or self.image is None:
            return out
        out = out.clone()
        out[self.image.to(out.device)] += features.to(out.device, out.dtype)
        return out

    def forget(self, index: int) -> None:
        """Free the features for layer `index`, which no pass needs any more."""
        if index < len(self.deepstack):
            self.deepstack[index] = None


def batches(samples: Samples, base: Any, embeddings: nn.Module, device: torch.device, tokens: int) -> list[Batch]:
    """The samples in batches of up to `tokens` tokens, but of one sample at least.

    `base` is the model without its head. Images go through its vision tower, in float32 on `device`. Raises InputError
    for images that cannot be used, and if the device does not have enough memory for the tower.
    """
    if isinstance(samples, Tensor):
        parts = samples.split(max(1, tokens // samples.shape[1]))
        return [Batch(len(part), part.shape[1], {"input_ids": part}) for part in parts]
    if isinstance(samples, SpeechWindows):
        raise InputError("a model of text cannot be calibrated with speech; give a text")
    encoded = _Encoded(samples, base, embeddings, device)
    by_length = sorted(samples.prompts, key=lambda prompt: len(prompt.tokens))
    found = []
    for length, group in groupby(by_length, key=lambda prompt: len(prompt.tokens)):
        alike, size = list(group), max(1, tokens // length)
        found += [encoded.batch(alike[start : start + size]) for start in range(0, len(alike), size)]
    return found


class _Encoded:
    """The images of prompts after the vision tower, in the model's dtype on the CPU; equal images are encoded once."""

    def __init__(self, samples: ImagePrompts, base: Any, embeddings: nn.Module, device: torch.device) -> None:
        self._samples, self._base, self._embed = samples, base, embeddings
        dtype = embeddings.get_parameter("weight").dtype
        images = samples.images
        features = image_features(base, samples.preprocessing, images, device, dtype)
        self._features = {image.digest: layers for image, layers in zip(images, features, strict=True)}

    def batch(self, prompts: Sequence[ImagePrompt]) -> Batch:
        """A batch of prompts of equal length."""
        tokens = torch.tensor([prompt.tokens for prompt in prompts])
        image = tokens == self._samples.image_token
        inputs: Tensor = self._embed(tokens)
        layers = [self._features[one.digest] for prompt in prompts for one in prompt.images]
        stacked: list[Tensor | None] = []
        if layers:
            first, *rest = (torch.cat(parts) for parts in zip(*layers, strict=True))
            inputs[image] = first
            stacked = [*rest]
        positions = self._positions(prompts, tokens, image)
        given = {"inputs_embeds": inputs, "position_ids": positions}
        return Batch(len(tokens), tokens.shape[1], given, image if layers else None, stacked)

    def _positions(self, prompts: Sequence[ImagePrompt], tokens: Tensor, image: Tensor) -> Tensor:
        """M-RoPE positions [3, prompts, length]."""
        grids = [self._samples.preprocessing.grid(one) for prompt in prompts for one in prompt.images]
        sizes = torch.tensor([patch_grid(grid, self._samples.preprocessing) for grid in grids]) if grids else None
        positions: Tensor = self._base.get_rope_index(tokens, mm_token_type_ids=image.int(), image_grid_thw=sizes)[0]
        return positions
