"""A device runs out of memory in the torch backend: half the batch gives the same results, or one line says why not.

The model itself raises the error that torch raises, for calls with too many tokens or rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_tokenizer
from families import make
from torch import Tensor, nn

from converters.errors import InputError
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.batch_limit import BatchLimit, Span
from sweep.backends.torch import TorchBackend, TorchOptions, on_device

torch.set_num_threads(1)  # tiny models: a second thread only waits for the first


class FullDevice:
    """A hook that limits the calls of a module to `room` tokens, and records the tokens of each call."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tokens: list[int] = []

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.tokens.append(inputs[0].shape[:-1].numel())
        if self.tokens[-1] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@contextmanager
def full(backend: TorchBackend, room: int, of: str = "last layer") -> Iterator[FullDevice]:
    """Run out of memory in the last layer, after other layers wrote to the cache, or at the head."""
    module = backend._model.lm_head if of == "head" else backend._model.model.layers[-1].mlp
    device = FullDevice(room)
    hook = module.register_forward_pre_hook(device)
    yield device
    hook.remove()


@pytest.fixture(scope="module", params=["qwen3", "qwen35"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> TorchBackend:
    """A model with attention alone, and one with recurrent states."""
    if request.param == "qwen3":
        return TorchBackend.open(tiny.directory, dtype="float32")
    directory = make(request.param, tmp_path_factory.mktemp(request.param))
    make_tokenizer(directory)
    return TorchBackend.open(directory, dtype="float32")


@pytest.fixture
def fresh(opened: TorchBackend) -> Callable[[], TorchBackend]:
    """A new backend for the model, because a backend remembers that its device was full."""
    options = TorchOptions(slots=6, n_batch=120)
    return lambda: TorchBackend(opened._model, opened._vocabulary.tokenizer, options=options)


def some_tokens(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    return tuple(rng.integers(10, 500, n).tolist())


def questions() -> list[ScoreRequest]:
    """Requests with and without common prefixes, and one that is longer than a batch."""
    rng = np.random.default_rng(3)
    examples = some_tokens(rng, 40)
    requests = [ScoreRequest(some_tokens(rng, 150), some_tokens(rng, 70))]
    for n in (3, 9, 20, 4):
        context = examples + some_tokens(rng, n)
        requests += [ScoreRequest(context, some_tokens(rng, k)) for k in (1, 5, 9)]
    return requests


@pytest.mark.parametrize("of", ["last layer", "head"])
def test_scores_are_the_same_with_half_the_batch(fresh: Callable[[], TorchBackend], of: str) -> None:
    expected = fresh().loglikelihoods(questions())
    backend = fresh()
    with full(backend, 60, of) as device:
        found = backend.loglikelihoods(questions())
        again = backend.loglikelihoods(questions())
    for scores in (found, again):
        assert [score.logprob for score in scores] == pytest.approx([score.logprob for score in expected], abs=1e-4)
        assert [score.is_greedy for score in scores] == [score.is_greedy for score in expected]
    assert sum(n > device.room for n in device.tokens) == 1  # once in total, not once per call
    assert max(device.tokens) > device.room


def test_generations_are_the_same_with_half_the_batch(fresh: Callable[[], TorchBackend]) -> None:
    rng = np.random.default_rng(5)
    examples = some_tokens(rng, 130)
    requests = [GenerationRequest(examples + some_tokens(rng, n), 8) for n in (4, 30, 11, 1, 6, 2, 17)]
    requests.append(GenerationRequest(some_tokens(rng, 9), 12))
    expected = fresh().generate(requests)
    backend = fresh()
    with full(backend, 60) as device:
        assert backend.generate(requests) == expected
    assert sum(n > device.room for n in device.tokens) == 1


@pytest.mark.parametrize("of", ["last layer", "head"])
def test_windows_are_the_same_with_half_the_batch(fresh: Callable[[], TorchBackend], of: str) -> None:
    tokens = np.random.default_rng(2).integers(10, 500, (5, 96), dtype=np.int32)
    together = 1 if of == "head" else 4
    expected = np.concatenate([part.logits for part in fresh().windows(tokens, 30, parallel=together)])
    backend = fresh()
    with full(backend, 40 if of == "head" else 192, of) as device:
        parts = [(part.window, part.start, part.logits) for part in backend.windows(tokens, 30, parallel=together)]
    np.testing.assert_allclose(np.concatenate([logits for *_, logits in parts]), expected, atol=1e-4)
    assert [window for window, *_ in parts] == sorted(window for window, *_ in parts)
    assert sum(n > device.room for n in device.tokens) == 1


def test_if_half_a_batch_does_not_fit_one_line_says_so(fresh: Callable[[], TorchBackend]) -> None:
    tokens = np.full((2, 64), 77, np.int32)
    works: list[tuple[int, str, Callable[[TorchBackend], object]]] = [
        (10, r"half as much, \d+ tokens at once,", lambda backend: backend.loglikelihoods(questions())),
        (10, r"half as much, \d+ tokens at once,", lambda b: b.generate([GenerationRequest(tuple(range(10, 90)), 4)])),
        (10, r"half as much, 64 tokens at once, does not fit either", lambda backend: list(backend.windows(tokens, 8))),
        (10, r"64 tokens at once do not fit and cannot be halved", lambda b: list(b.windows(tokens, 8, parallel=1))),
        (10, r"32 tokens at once do not fit and cannot be halved", lambda backend: backend.time_prompt(32, 64)),
    ]
    for room, message, work in works:
        backend = fresh()
        with (
            full(backend, room) as device,
            pytest.raises(InputError, match=rf"^cpu is out of memory: {message}") as error,
        ):
            work(backend)
        assert "\n" not in str(error.value)
        assert len([n for n in device.tokens if n > room]) <= 2


def test_one_line_says_that_weights_or_a_cache_do_not_fit(
    fresh: Callable[[], TorchBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = fresh()

    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Tensor, "new_zeros", out_of_memory)
    with pytest.raises(
        InputError, match=r"cpu is out of memory: a cache of 1\d tokens and [12] sequences does not fit"
    ):
        backend.generate([GenerationRequest((1, 2, 3), 8)])
    monkeypatch.undo()
    model = nn.Linear(1, 1)
    monkeypatch.setattr(model, "_apply", out_of_memory)
    with pytest.raises(InputError, match=r"cpu is out of memory: the model's weights, 0\.0 GiB, do not fit"):
        on_device(model, "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(("end", "width", "most"), [(10, 1, 3), (10, 4, 9), (3, 8, 2), (1, 5, 5), (0, 1, 4)])
def test_pieces_cover_the_whole_in_order(end: int, width: int, most: int) -> None:
    pieces = list(Span(0, end, width).pieces(most))
    assert [i for piece in pieces for i in range(piece.start, piece.end)] == list(range(end))
    assert all(piece.tokens <= max(most, width) for piece in pieces)


def test_other_errors_are_raised_unchanged() -> None:
    limit = BatchLimit(torch.device("cpu"))

    def broken(span: Span) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        limit.run(Span(0, 4), broken)
    assert limit.run(Span(0, 4), lambda span: span.tokens) == [4]
