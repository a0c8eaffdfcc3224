"""llama.cpp and torch give the same logits for the same images, in every family.

Two claims with different tolerances. Given the same embeddings, the text models agree as they do for text: positions,
DeepStack and shared prefixes are right. The towers differ by a few 1e-4, partly because llama.cpp's GELU is a table in
float16, in mergers with tanh; the logits then differ by about 1e-3. Hybrid models amplify that, and a mixture of
experts may choose another expert.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families import TOWERS
from transformers import AutoModelForImageTextToText
from vision_models import image_requests, make_vision_model, questions_on_one_image, some_images

from converters.errors import InputError
from converters.export import export
from converters.llamacpp.image_encoder import LlamaImageEncoder
from converters.projector_source import ProjectorSource
from converters.resolver import open_source
from images.preprocessing import read_preprocessing
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.embedding_store import EmbeddingStore
from sweep.backends.image_options import ImageOptions
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.torch import TorchBackend

torch.set_num_threads(1)
EXACT = LlamaOptions(n_threads=1, type_k="f32", type_v="f32", flash_attn="off", slots=6)
LOGITS = {"qwen35, multi-modal": 1e-2}  # others: 1e-3
FAST = ("qwen3vl", "qwen35, multi-modal")  # DeepStack, and recurrent states
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in TOWERS]
MOE = "qwen35moe, multi-modal"  # its tiny router is near a tie for one of the prompts


@dataclass(frozen=True)
class Case:
    family: str
    gguf: Path
    options: ImageOptions
    torch: TorchBackend
    requests: list[ScoreRequest]
    expected: list[np.ndarray]

    def open(self, n_batch: int = 2048) -> LlamaBackend:
        return LlamaBackend(self.gguf, replace(EXACT, n_batch=n_batch, images=self.options))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    directory = tmp_path_factory.mktemp("vision")
    make_vision_model(request.param, directory)
    gguf, projector = directory / "text.gguf", directory / "mmproj.gguf"
    export(open_source(directory), {"F32": gguf})
    export(ProjectorSource(open_source(directory)), {"F32": projector})
    options = ImageOptions(read_preprocessing(directory), projector)
    backend = TorchBackend.open(directory, dtype="float32", images=options)
    requests = image_requests(some_images(directory))
    yield Case(request.param, gguf, options, backend, requests, list(backend.continuation_logits(requests)))
    backend.close()


@pytest.mark.parametrize("n_batch", [32, 2048])  # 32: an image is computed in several steps
def test_given_the_same_embeddings_logits_agree_as_for_text(
    case: Case, n_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = case.open(n_batch)
    assert backend._encoder is not None
    assert case.torch._encoder is not None
    monkeypatch.setattr(backend._encoder, "encode", case.torch._encoder.encode)
    for found, expected in zip(backend.continuation_logits(case.requests), case.expected, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    scores = zip(backend.loglikelihoods(case.requests), case.torch.loglikelihoods(case.requests), strict=True)
    for found, expected in scores:
        assert found.logprob == pytest.approx(expected.logprob, abs=2e-4)
    prompts = [GenerationRequest(r.context, 4, images=r.images) for r in case.requests]
    for asked in (prompts, questions_on_one_image(case.requests[0].images[0].image)):
        assert backend.generate(asked) == case.torch.generate(asked)
    backend.close()


def test_with_its_own_tower_logits_agree_to_a_thousandth(case: Case) -> None:
    backend = case.open()
    assert backend._encoder is not None
    assert case.torch._encoder is not None
    for request in case.requests[:9:3]:
        ours, theirs = (encoder.encode(request.images[0].image) for encoder in (backend._encoder, case.torch._encoder))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3)
    far = [
        float(np.abs(found - expected).max())
        for found, expected in zip(backend.continuation_logits(case.requests), case.expected, strict=True)
    ]
    if case.family == MOE:
        assert np.median(far) < 1e-2
    else:
        assert max(far) < LOGITS.get(case.family, 1e-3)
    backend.close()


def test_bf16_files_are_nearer_to_float32_than_torch_in_bfloat16(case: Case, tmp_path: Path) -> None:
    """The same weights, which are exact in BF16. Both round activations to 8 bits of mantissa, llama.cpp only for
    products, so neither agrees to a thousandth with float32, nor with the other."""
    if case.family == MOE:
        pytest.skip("another expert makes other logits")
    directory = tmp_path / "bf16"
    shutil.copytree(case.gguf.parent, directory, ignore=shutil.ignore_patterns("*.gguf"))
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    text, projector = directory / "text.gguf", directory / "mmproj.gguf"
    export(open_source(directory), {"BF16": text})
    export(ProjectorSource(open_source(directory)), {"BF16": projector})
    options = replace(case.options, projector=projector)
    exact, rounded = (TorchBackend.open(directory, dtype=dtype, images=options) for dtype in ("float32", "bfloat16"))
    ours = LlamaBackend(text, replace(EXACT, images=options))
    expected, *found = (np.concatenate(list(one.continuation_logits(case.requests))) for one in (exact, ours, rounded))
    for backend in (exact, rounded, ours):
        backend.close()
    far = [float(np.abs(logits - expected).mean()) / float(expected.std()) for logits in found]
    assert 1e-4 < far[0] < min(far[1], 0.02)


def test_variants_that_share_a_projector_encode_an_image_once(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(case.options, store=EmbeddingStore(tmp_path))
    found = []
    for quant in ("F32", "Q8_0"):
        gguf = tmp_path / f"{quant}.gguf"
        export(open_source(case.gguf.parent), {quant: gguf})
        backend = LlamaBackend(gguf, replace(EXACT, images=options))
        found.append(backend.loglikelihoods(case.requests))
        backend.close()
        # from here on, nothing may be encoded again
        monkeypatch.setattr(LlamaImageEncoder, "encode", lambda *_: pytest.fail("an image was encoded again"))
    assert len(list(tmp_path.glob("*.npy"))) == 3
    monkeypatch.undo()
    backend = case.open()
    assert found[0] == backend.loglikelihoods(case.requests)  # stored embeddings are those that were computed
    backend.close()
    assert found[1] != found[0]


def test_a_projector_file_of_another_model_is_rejected(case: Case, tiny) -> None:
    wrong = replace(case.options, preprocessing=replace(case.options.preprocessing, mean=(0.1, 0.2, 0.3)))
    with pytest.raises(InputError, match="the mean of pixels is"):
        LlamaBackend(case.gguf, replace(EXACT, images=wrong))
    with pytest.raises(InputError, match="is not a projector file"):
        LlamaBackend(case.gguf, replace(EXACT, images=replace(case.options, projector=case.gguf)))
    with pytest.raises(InputError, match="is a text model"):
        LlamaBackend(tiny.gguf, replace(EXACT, images=case.options))
