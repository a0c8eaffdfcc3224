"""Positions of image tokens are transformers'; calls with text and images are split into as few turns as possible."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from images.file import ImageFile, open_image
from images.preprocessing import Grid
from sweep.backends.base import PlacedImage, ScoreRequest
from sweep.backends.llama_engine import _turns
from sweep.backends.prompt_images import PromptImages, RotaryPositions, with_image_tokens


class Encoder:
    """Embeddings that say which image and token they are for. Counts its calls."""

    width = 2

    def __init__(self) -> None:
        self.calls: list[str] = []

    def grid(self, image: ImageFile) -> Grid:
        return Grid(image.height, image.width)

    def encode(self, image: ImageFile) -> np.ndarray:
        self.calls.append(image.name)
        tokens = np.arange(image.width * image.height, dtype=np.float32)
        return np.stack([np.full(len(tokens), float(image.name[:1])), tokens], axis=1).astype(np.float32)


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    found = []
    for i, size in enumerate([(3, 2), (1, 4), (5, 5)]):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", size, (i, 0, 0)).save(path)
        found.append(open_image(path, path.name))
    return found


def prompt(images: list[ImageFile]) -> ScoreRequest:
    placed = tuple(PlacedImage(image, at) for image, at in zip([*images, images[0]], (0, 2, 3, 6), strict=True))
    return ScoreRequest(tuple(range(10, 16)), (7, 8, 9), placed)


def test_the_tokens_of_images_stand_in_place(images: list[ImageFile]) -> None:
    (request,), found = with_image_tokens([prompt(images)], Encoder(), 512)
    assert found is not None
    first, second, third = ([*found.tokens(image)] for image in images)
    assert len({*first, *second, *third}) == 6 + 4 + 25
    assert list(request.context) == [*first, 10, 11, *second, 12, *third, 13, 14, 15, *first]
    assert max(first + second + third) < 0


def test_rows_of_embeddings_are_found_in_any_order_and_made_once(images: list[ImageFile]) -> None:
    encoder = Encoder()
    found = PromptImages(encoder, images)
    tokens = np.array([found.tokens(images[2])[7], found.tokens(images[0])[0], found.tokens(images[2])[24]])
    assert found.embeddings(tokens).tolist() == [[2, 7], [0, 0], [2, 24]]
    assert found.embeddings(tokens[:1]).tolist() == [[2, 7]]
    assert sorted(encoder.calls) == ["0.png", "2.png"]


@pytest.mark.parametrize("step", [100, 4, 1])
def test_positions_are_those_of_transformers(images: list[ImageFile], step: int) -> None:
    (request,), found = with_image_tokens([prompt(images)], Encoder(), 512)
    assert found is not None
    path = np.array(request.context + request.continuation)
    rotary = RotaryPositions(found, 2, len(path))
    parts = []
    for start in range(0, len(path), step):
        places = np.arange(start, min(len(path), start + step))
        parts.append(rotary.take(path[places], places, np.ones(len(places), np.int64), np.ones(len(places), np.int64)))
    grids = torch.tensor([[1, 2 * i.height, 2 * i.width] for i in [*images, images[0]]])
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2)),
        get_vision_position_ids=lambda *args, **named: Qwen3VLModel.get_vision_position_ids(None, *args, **named),
    )
    kinds = torch.from_numpy((path < 0).astype(np.int32))[None]
    expected, _ = Qwen3VLModel.get_rope_index(model, torch.from_numpy(path)[None], kinds, image_grid_thw=grids)
    assert np.concatenate(parts, axis=1).tolist() == expected[:, 0].tolist()


def test_sequences_that_share_tokens_share_their_positions(images: list[ImageFile]) -> None:
    """Tokens of two sequences, then a branch of each; a copy continues where its source was."""
    found = PromptImages(Encoder(), images)
    rotary = RotaryPositions(found, 3, 20)
    image = [*found.tokens(images[0])]
    tokens = np.array([1, *image, 2, 3])
    places = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7])
    sequences = np.array([1, 0] * 7 + [1, 0])
    taken = rotary.take(tokens, places, sequences, np.array([2] * 7 + [1, 1]))
    assert taken[0].tolist() == [0, *[1] * 6, 4, 4]
    rotary.copy(0, 2)
    assert [rotary.at(2, place) for place in (0, 1, 7, 8)] == [0, 1, 4, 5]


def test_calls_are_split_into_turns_of_text_and_images() -> None:
    # Sequence 0: text text image text; 1 shares the first text, then image text; 2: image.
    sequences = np.array([0, 1, 0, 0, 0, 1, 1, 2])
    counts = np.array([2, 1, 1, 1, 1, 1, 1])
    image = np.array([False, False, True, False, True, False, True])
    turns = [np.flatnonzero(turn).tolist() for turn in _turns(image, sequences, counts, 3)]
    assert turns == [[0, 1], [2, 4, 6], [3, 5]]
