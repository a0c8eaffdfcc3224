"""The calibration text, cut into samples of tokens. The constants can be imported without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converters.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

SAMPLES, LENGTH = 1000, 256  # as in the published recipes
FEWEST_TOKENS = 2048  # that a text must have if no number of samples is given


def samples(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    where: str,
    count: int | None = None,
    length: int | None = None,
    *,
    parse_special: bool = False,
) -> Tensor:
    """Cut a text into samples, int64 [count, length], which do not overlap and are spread evenly over the text.

    `count` is by default the number of samples that the text gives, up to SAMPLES. `parse_special`: whether special
    tokens in the text are read as such, or as plain text. Raises InputError that names `where` if it is too short.
    """
    import torch

    length = LENGTH if length is None else length
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=not parse_special, verbose=False)["input_ids"]
    there = len(ids) // length
    if count is not None and there < count:
        raise InputError(
            f"{where}: too short for {count} samples of {length} tokens: its {len(ids)} tokens give {there};"
            " use fewer or shorter samples, or a longer text"
        )
    if count is None:
        if there * length < FEWEST_TOKENS:
            raise InputError(
                f"{where}: too short to calibrate with: its {len(ids)} tokens give {there} samples of {length}, but at"
                f" least {FEWEST_TOKENS} tokens are needed"
            )
        count = min(there, SAMPLES)
    pieces = [ids[start : start + length] for start in (i * there // count * length for i in range(count))]
    return torch.tensor(pieces)
