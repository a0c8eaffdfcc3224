"""A device out of memory: half as much is computed at once from then on; where that is too much, one line says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch

from converters.errors import InputError


class Work(Protocol):
    """What is computed at once. Cut into `pieces` of at most `most` tokens it is the same work, in order; a piece that
    cannot be cut so far is larger."""

    @property
    def tokens(self) -> int: ...

    def pieces(self, most: int) -> Iterator[Self]: ...


@dataclass(frozen=True)
class Span:
    """Work on the items start .. end - 1 of many, each of `width` tokens."""

    start: int
    end: int
    width: int = 1

    @property
    def tokens(self) -> int:
        return (self.end - self.start) * self.width

    @property
    def slice(self) -> slice:
        return slice(self.start, self.end)

    def pieces(self, most: int) -> Iterator[Span]:
        step = max(1, most // self.width)
        for start in range(self.start, self.end, step):
            yield Span(start, min(start + step, self.end), self.width)


AnyWork = TypeVar("AnyWork", bound=Work)
Result = TypeVar("Result")


class BatchLimit:
    """How much a device computes at once: all that it is given, until it runs out of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most: int | None = None

    def run(self, work: AnyWork, compute: Callable[[AnyWork], Result]) -> list[Result]:
        """What `compute` gives of the whole work, or of each of its pieces. It may be called again where it ran out of
        memory. Raises InputError where half as much does not fit either, or the work cannot be cut.
        """
        if self._most is None:
            try:
                return [compute(work)]
            except torch.OutOfMemoryError as error:
                half = -(-work.tokens // 2)
                if next(work.pieces(half)).tokens == work.tokens:
                    raise _full(
                        self._device, f"{work.tokens} tokens at once do not fit and cannot be halved"
                    ) from error
                self._most = half
            torch.cuda.empty_cache()  # not before: the error holds what was computed so far
        with told_when_full(self._device, f"half as much, {self._most} tokens at once, does not fit either"):
            return [compute(piece) for piece in work.pieces(self._most)]


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts along their first dimension; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


@contextmanager
def told_when_full(device: torch.device, what: str) -> Iterator[None]:
    """Turns torch's OutOfMemoryError into an InputError; `what` says what does not fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _full(device, what) from error


def _full(device: torch.device, what: str) -> InputError:
    return InputError(
        f"{device} is out of memory: {what}; end what else uses it, or hide it (CUDA_VISIBLE_DEVICES=) and take the CPU"
    )
