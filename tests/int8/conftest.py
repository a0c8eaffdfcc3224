"""The built-in models in float32, one copy per test, and their texts as tokens; every recipe and random models."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from every_recipe import FILES, MODELS
from families import make
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel
from vision_calibration import Made
from vision_models import image_prompts, make_vision_model, some_images

import presets
from images.preprocessing import read_preprocessing
from int8.model import open_model
from int8.recipe import NAMED, Recipe, recipe


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """For tiny models several threads cost more than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _opened() -> dict[str, PreTrainedModel]:
    return {}


@pytest.fixture
def fresh(_opened: dict[str, PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """Returns a copy of a built-in model, which a test may change."""

    def give(name: str = "micro") -> PreTrainedModel:
        if name not in _opened:
            _opened[name] = open_model(presets.builtin_models()[name].directory, "float32")
        return copy.deepcopy(_opened[name])

    return give


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Returns a tiny vision-language model of a family."""
    found: dict[str, Made] = {}

    def give(family: str) -> Made:
        if family not in found:
            place = tmp_path_factory.mktemp("vision")
            make_vision_model(family, place / "model")
            preprocessing = read_preprocessing(place / "model")
            found[family] = Made(place / "model", image_prompts(some_images(place), preprocessing))
        return found[family]

    return give


@pytest.fixture(scope="session")
def calibration_tokens() -> Tensor:
    """[24, 128]"""
    return _tokens("calibration", 24, 128)


@pytest.fixture(scope="session")
def test_tokens() -> Tensor:
    """[12, 256]"""
    return _tokens("text", 12, 256)


def _tokens(text: str, samples: int, length: int) -> Tensor:
    micro = presets.builtin_models()["micro"]
    tokenizer = AutoTokenizer.from_pretrained(micro.directory)
    ids = tokenizer(getattr(micro, text).read_text(encoding="utf-8"), verbose=False)["input_ids"]
    step = len(ids) // samples
    return torch.tensor([ids[i * step : i * step + length] for i in range(samples)])


@pytest.fixture
def perplexity(test_tokens: Tensor) -> Callable[[PreTrainedModel], float]:
    """Perplexity on a short text that is not used for calibration."""

    @torch.no_grad()
    def measure(model: PreTrainedModel) -> float:
        logprobs = model(test_tokens).logits.float().log_softmax(-1)[:, :-1]
        return math.exp(-logprobs.gather(-1, test_tokens[:, 1:, None]).mean())

    return measure


@pytest.fixture(params=[*NAMED, *FILES])
def chosen(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    if request.param in NAMED:
        return NAMED[request.param]
    file = tmp_path / "mine.toml"
    file.write_text(FILES[request.param])
    return recipe(str(file))


@pytest.fixture(scope="module", params=MODELS)
def random_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "qwen3":
        make_checkpoint(directory, dtype=torch.float32, tokenizer=False)
    else:
        make(request.param, directory)
    return open_model(directory)
