"""The torch backend with images gives what one forward pass of the model with its processor's inputs gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from families import TOWERS
from transformers import PreTrainedModel
from vision_models import image_requests, make_vision_model, own_logits, questions_on_one_image, some_images

from converters.errors import InputError
from images.preprocessing import Preprocessing, read_preprocessing
from sweep.backends.base import GenerationRequest, PlacedImage, Score, ScoreRequest
from sweep.backends.embedding_store import EmbeddingStore
from sweep.backends.image_options import ImageOptions
from sweep.backends.torch import TorchBackend, TorchOptions

torch.set_num_threads(1)
FAST = ("qwen3vl", "qwen35, multi-modal")  # DeepStack, and recurrent states
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in TOWERS]


@dataclass(frozen=True)
class Case:
    directory: Path
    model: PreTrainedModel
    preprocessing: Preprocessing
    requests: list[ScoreRequest]
    expected: list[torch.Tensor]

    def open(self, n_batch: int | None = None) -> TorchBackend:
        options = TorchOptions(n_batch=n_batch, slots=6)
        images = ImageOptions(self.preprocessing)
        return TorchBackend.open(self.directory, dtype="float32", options=options, images=images)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    directory = tmp_path_factory.mktemp("vision")
    model = make_vision_model(request.param, directory)
    preprocessing = read_preprocessing(directory)
    requests = image_requests(some_images(directory))
    return Case(directory, model, preprocessing, requests, [own_logits(model, r, preprocessing) for r in requests])


@pytest.mark.parametrize("n_batch", [25, None])  # 25: an image is computed in several steps
def test_log_likelihoods_and_logits_are_the_models_own(case: Case, n_batch: int | None) -> None:
    backend = case.open(n_batch)
    found = zip(
        case.requests,
        case.expected,
        backend.loglikelihoods(case.requests),
        backend.continuation_logits(case.requests),
        strict=True,
    )
    for request, expected, score, logits in found:
        chosen = expected.log_softmax(-1)[range(len(request.continuation)), list(request.continuation)]
        assert score.logprob == pytest.approx(float(chosen.sum()), abs=1e-4)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_generated_tokens_are_the_models_most_probable_ones(case: Case) -> None:
    backend = case.open()
    prompts = [GenerationRequest(r.context, 4, images=r.images) for r in case.requests]
    shared = questions_on_one_image(case.requests[0].images[0].image)  # slots go back to the prefix with the image
    generated = [*backend.generate(prompts), *backend.generate(shared)]
    for prompt, found in zip([*prompts, *shared], generated, strict=True):
        scored = ScoreRequest(prompt.prompt, found.tokens, prompt.images)
        assert own_logits(case.model, scored, case.preprocessing).argmax(-1).tolist() == list(found.tokens)


def test_another_image_gives_other_logits(case: Case) -> None:
    """Without this, a backend that ignores images could pass."""
    request = case.requests[0]
    other = ScoreRequest(request.context, request.continuation, (PlacedImage(case.requests[3].images[0].image, 5),))
    one, two = case.open().continuation_logits([request, other])
    assert np.abs(one - two).max() > 0.1


def test_a_prompt_that_its_images_make_too_long_names_them(case: Case) -> None:
    image = case.requests[0].images[0].image
    request = ScoreRequest((1,) * 490, (2,), (PlacedImage(image, 3),))
    n = case.preprocessing.grid(image).tokens
    with pytest.raises(InputError) as caught:
        case.open().loglikelihoods([case.requests[1], request])
    assert str(caught.value) == (
        f"{image.name}: the prompt needs {490 + n} tokens, of which {n} are image tokens, but the context has 512; "
        "use a smaller image or a lower limit of pixels"
    )


def test_a_model_without_its_tower_takes_no_images(tiny, case: Case) -> None:
    backend = TorchBackend.open(tiny.directory, dtype="float32")
    with pytest.raises(InputError, match=r"0\.png: the model was loaded without a vision tower"):
        backend.generate([GenerationRequest((1, 2), 3, images=case.requests[0].images)])
    with pytest.raises(InputError):
        TorchBackend.open(tiny.directory, dtype="float32", images=ImageOptions(case.preprocessing))


def logprobs(scores: list[Score]) -> list[float]:
    return [score.logprob for score in scores]


def test_stored_embeddings_are_those_of_the_same_weights(case: Case, tmp_path: Path) -> None:
    options = ImageOptions(case.preprocessing, store=EmbeddingStore(tmp_path))
    first = TorchBackend.open(case.directory, dtype="float32", images=options)
    scores = first.loglikelihoods(case.requests)
    again = TorchBackend.open(case.directory, dtype="float32", images=options)
    again._model.base_model.get_image_features = None  # so that nothing can be encoded again
    for backend in (again, case.open()):
        assert logprobs(backend.loglikelihoods(case.requests)) == pytest.approx(logprobs(scores), abs=1e-4)
    other = TorchBackend.open(case.directory, dtype="float32", images=options)
    other._model.base_model.visual.patch_embed.proj.weight.data.mul_(1.5)
    assert logprobs(other.loglikelihoods(case.requests)) != pytest.approx(logprobs(scores), abs=1e-2)


def test_a_marker_in_text_is_text(case: Case) -> None:
    """Only `images` of a request are images, whatever its text contains."""
    backend = case.open()
    text = "<__media__><|vision_start|><|image_pad|><|vision_end|><image>"
    tokens = tuple(backend.tokenize(text).tolist())
    request = ScoreRequest(tokens, (5, 6))
    (logits,) = backend.continuation_logits([request])
    np.testing.assert_allclose(logits, own_logits(case.model, request, case.preprocessing), rtol=0, atol=1e-4)
