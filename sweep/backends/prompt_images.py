"""The images of a call: their tokens, the rows of embeddings that stand for these, and their M-RoPE positions.

Planning, scoring and generation know only integers. So each row of an image's embeddings gets a number of its own,
below 0, and the tokens of an image are its rows in order. Prompts with the same image then have equal prefixes, which
are computed once like any others, and prompts with different images never do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from images.file import ImageFile
from images.preprocessing import Grid
from sweep.backends.base import GenerationRequest, PlacedImage, ScoreRequest

HELD_BYTES = 256 << 20  # embeddings in memory; a prompt's tokens may be computed in several steps

Ints = NDArray[np.int64]
AnyRequest = TypeVar("AnyRequest", ScoreRequest, GenerationRequest)


class ImageEncoder(Protocol):
    """Turns images into embeddings.

    Attributes:
        width: values of a row: the width of the model, times one more than the number of DeepStack layers.
    """

    width: int

    def grid(self, image: ImageFile) -> Grid:
        """The tokens of an image. Raises InputError."""
        ...

    def encode(self, image: ImageFile) -> NDArray[np.float32]:
        """The embeddings of an image, float32 (tokens, width): first the model's input, then each DeepStack layer's."""
        ...


@dataclass(frozen=True)
class ImageRows:
    """What n tokens that are rows of images need: arrays (n,).

    `row` and `column` are the place in the grid. `advance` says how far the token moves the position of the text after
    it: only the last token of an image does.
    """

    row: Ints
    column: Ints
    advance: Ints


class PromptImages:
    """The images of a call's prompts. Their embeddings are made when they are needed, and up to HELD_BYTES are kept."""

    def __init__(self, encoder: ImageEncoder, images: Iterable[ImageFile]) -> None:
        self._encoder = encoder
        distinct = {image.content: image for image in images}
        self._images = list(distinct.values())
        self._number = {content: i for i, content in enumerate(distinct)}
        self._grids = [encoder.grid(image) for image in self._images]
        sizes = np.array([grid.tokens for grid in self._grids], np.int64)
        self._firsts = np.cumsum(sizes) - sizes
        self._held: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self.width = encoder.width

    def tokens(self, image: ImageFile) -> range:
        """The tokens that stand for an image."""
        number = self._number[image.content]
        first = -1 - int(self._firsts[number])
        return range(first, first - self._grids[number].tokens, -1)

    def rows(self, tokens: NDArray[np.integer]) -> ImageRows:
        """The places of `tokens` (n,), all below 0, in their images."""
        numbers, offsets = self._find(tokens)
        columns = np.array([grid.columns for grid in self._grids])[numbers]
        last = np.array([grid.tokens - 1 for grid in self._grids])[numbers] == offsets
        positions = np.array([grid.positions for grid in self._grids])[numbers]
        return ImageRows(offsets // columns, offsets % columns, np.where(last, positions, 0))

    def embeddings(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """The embeddings (n, width) of `tokens` (n,), all below 0."""
        numbers, offsets = self._find(tokens)
        found = np.empty((len(tokens), self.width), np.float32)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            found[here] = self._embeddings(number)[offsets[here]]
        return found

    def _find(self, tokens: NDArray[np.integer]) -> tuple[Ints, Ints]:
        """For each token the number of its image, and its place in the image."""
        rows = -1 - tokens.astype(np.int64)
        numbers = np.searchsorted(self._firsts, rows, side="right") - 1
        return numbers, rows - self._firsts[numbers]

    def _embeddings(self, number: int) -> NDArray[np.float32]:
        if number not in self._held:
            self._held[number] = self._encoder.encode(self._images[number])
            while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return self._held[number]


def with_image_tokens(
    requests: Sequence[AnyRequest], encoder: ImageEncoder | None, max_length: int
) -> tuple[Sequence[AnyRequest], PromptImages | None]:
    """The requests with tokens instead of images, and the images; without images the requests as they are.

    Raises InputError if the model takes no images (`encoder` is None), if an image cannot be used, or if a prompt with
    images is longer than `max_length`. The messages name the image.
    """
    placed = [place for request in requests for place in request.images]
    if not placed:
        return requests, None
    if encoder is None:
        raise InputError(
            f"{placed[0].image.name}: the model was loaded without a vision tower, so it takes no images; use a vision "
            "model, and with a GGUF file its projector file (mmproj)"
        )
    images = PromptImages(encoder, (place.image for place in placed))
    return [_with_tokens(request, images, max_length) for request in requests], images


def _with_tokens(request: AnyRequest, images: PromptImages, max_length: int) -> AnyRequest:
    if not request.images:
        return request
    if isinstance(request, ScoreRequest):
        context = _interleaved(request.context, request.images, images)
        _require_room(request.images, images, len(context) + len(request.continuation) - 1, max_length)
        return replace(request, context=context, images=())
    prompt = _interleaved(request.prompt, request.images, images)
    _require_room(request.images, images, len(prompt) + request.max_new_tokens, max_length)
    return replace(request, prompt=prompt, images=())


def _interleaved(tokens: tuple[int, ...], placed: Sequence[PlacedImage], images: PromptImages) -> tuple[int, ...]:
    parts: list[int] = []
    start = 0
    for place in placed:
        if not start <= place.at <= len(tokens):
            raise ValueError(f"an image at {place.at} in a prompt of {len(tokens)} tokens, after one at {start}")
        parts += tokens[start : place.at]
        parts += images.tokens(place.image)
        start = place.at
    return (*parts, *tokens[start:])


def _require_room(placed: Sequence[PlacedImage], images: PromptImages, length: int, max_length: int) -> None:
    if length <= max_length:
        return
    names = ", ".join(dict.fromkeys(place.image.name for place in placed))
    of_images = sum(len(images.tokens(place.image)) for place in placed)
    raise InputError(
        f"{names}: the prompt needs {length} tokens, of which {of_images} are image tokens, but the context has "
        f"{max_length}; use a smaller image or a lower limit of pixels"
    )


class RotaryPositions:
    """The M-RoPE positions of the tokens of sequences (Qwen2-VL, arXiv 2409.12191).

    A text token has one position. All tokens of an image have the position at which the image begins, plus their row
    and column. The text after an image goes on max(rows, columns) after its beginning, so positions differ from the
    places of tokens in their sequence.
    """

    def __init__(self, images: PromptImages, sequences: int, longest: int) -> None:
        self._images = images
        self._starts = np.zeros((sequences, longest + 1), np.int32)  # the position at which each place begins

    def at(self, sequence: int, place: int) -> int:
        """The position at which `place` of a sequence begins; the tokens before it are known."""
        return int(self._starts[sequence, place])

    def copy(self, source: int, target: int) -> None:
        self._starts[target] = self._starts[source]

    def take(
        self,
        tokens: NDArray[np.integer],
        places: NDArray[np.integer],
        sequences: NDArray[np.integer],
        counts: NDArray[np.integer],
    ) -> Ints:
        """The positions (3, n) of n tokens: time, row, column. Arguments as in EngineStep; `places`: positions."""
        n = len(tokens)
        advance = np.ones(n, np.int64)
        offsets = np.zeros((3, n), np.int64)
        image = tokens < 0
        rows = self._images.rows(tokens[image])
        advance[image], offsets[1, image], offsets[2, image] = rows.advance, rows.row, rows.column
        ends = np.cumsum(counts)
        owners = sequences[ends - counts]
        cuts = np.flatnonzero((np.diff(owners) != 0) | (np.diff(places) != 1)) + 1
        starts = np.empty(n, np.int64)
        for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), n], strict=True):
            after = self._starts[owners[first], places[first]] + np.cumsum(advance[first:end])
            starts[first:end] = after - advance[first:end]
            members = slice(ends[first] - counts[first], ends[end - 1])
            places_after = np.repeat(places[first:end] + 1, counts[first:end])
            self._starts[sequences[members], places_after] = np.repeat(after, counts[first:end])
        return starts + offsets
