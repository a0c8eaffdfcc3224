"""Handles a device that runs out of memory: from then on, batches have half the size.

If half a batch does not fit either, an InputError says so in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch

from converters.errors import InputError


class Work(Protocol):
    """A batch of work that can be divided.

    `pieces` divides it, in order, into parts of at most `most` tokens; a part that cannot be divided further is larger.
    """

    @property
    def tokens(self) -> int: ...

    def pieces(self, most: int) -> Iterator[Self]: ...


@dataclass(frozen=True)
class Span:
    """Work on the items start .. end - 1, each of which has `width` tokens."""

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
    """Limits how much a device computes at once: everything, until it runs out of memory for the first time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most: int | None = None

    def run(self, work: AnyWork, compute: Callable[[AnyWork], Result]) -> list[Result]:
        """The results of `compute` for the whole work, or for each of its pieces, in order.

        `compute` is called again for pieces if it runs out of memory. Raises InputError if half as much does not fit
        either, or if the work cannot be divided.
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
            torch.cuda.empty_cache()  # not earlier: the error's traceback refers to what was computed so far
        with out_of_memory_as_input_error(
            self._device, f"half as much, {self._most} tokens at once, does not fit either"
        ):
            return [compute(piece) for piece in work.pieces(self._most)]


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The parts joined along their first dimension; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


@contextmanager
def out_of_memory_as_input_error(device: torch.device, what: str) -> Iterator[None]:
    """Turns torch's OutOfMemoryError into an InputError; `what` is a clause that says what does not fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _full(device, what) from error


def _full(device: torch.device, what: str) -> InputError:
    return InputError(
        f"{device} is out of memory: {what}; end other programs that use it, or use the CPU (CUDA_VISIBLE_DEVICES=)"
    )
