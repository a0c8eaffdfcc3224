"""The text of a calibration, cut into samples of tokens. Its bounds are free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converters.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

SAMPLES, LENGTH = 1000, 256  # of the published recipes
FEWEST_TOKENS = 2048  # that a text must give where no number of samples was asked for


def samples(
    tokenizer: PreTrainedTokenizerBase, text: str, where: str, count: int | None = None, length: int | None = None
) -> Tensor:
    """int64 [count, length]: pieces of the text that do not overlap, spread evenly from its beginning to its end.

    Without `count` as many as there are, SAMPLES at most. Raises InputError naming `where` if the text is too short.
    """
    import torch

    length = LENGTH if length is None else length
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    there = len(ids) // length
    if count is not None and there < count:
        raise InputError(
            f"{where}: too short for {count} samples of {length} tokens; its {len(ids)} tokens give {there}:"
            " take fewer or shorter ones, or a longer text"
        )
    if count is None:
        if there * length < FEWEST_TOKENS:
            raise InputError(
                f"{where}: too short to calibrate with; its {len(ids)} tokens give {there} samples of {length},"
                f" and {FEWEST_TOKENS} tokens are the least"
            )
        count = min(there, SAMPLES)
    pieces = [ids[start : start + length] for start in (i * there // count * length for i in range(count))]
    return torch.tensor(pieces)
