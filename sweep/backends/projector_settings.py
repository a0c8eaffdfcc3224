"""Whether a projector file was made for the settings of an image processor, and the settings that a file states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from converters.architectures.tower import CHANNELS, FRAMES, MERGE
from converters.errors import InputError
from converters.llamacpp.container import Field, ValueType, text, whole_number
from images.preprocessing import Preprocessing

TOLERANCE = 1e-6  # of normalization, which files store in float32

_LIMITS = {"qwen2.5vl_merger": (3136, 12_845_056), "qwen3vl_merger": (65_536, 16_777_216)}
"""The fewest and the most pixels that published checkpoints state, by the kind of projector."""


def require_same_settings(
    path: Path, patch: int, merge: int, mean: Sequence[float], std: Sequence[float], settings: Preprocessing
) -> None:
    """Raises InputError if the values of the projector file `path` are not those of the image processor."""
    checks: tuple[tuple[str, Sequence[float], Sequence[float]], ...] = (
        ("the patch size", (patch,), (settings.patch,)),
        ("the merge size", (merge,), (settings.merge,)),
        ("the mean of pixels", mean, settings.mean),
        ("the standard deviation of pixels", std, settings.std),
    )
    for what, found, needed in checks:
        if len(found) != len(needed) or not np.allclose(found, needed, rtol=0, atol=TOLERANCE):
            raise InputError(
                f"{path}: {what} is {tuple(found)}, but {tuple(needed)} in the settings of the checkpoint's image "
                "processor; this projector file belongs to another model"
            )


def settings_of(path: Path, metadata: Mapping[str, Field]) -> Preprocessing:
    """The settings that a projector file's metadata state. They have no limits of pixels, so these are those of
    published checkpoints with this kind of projector. Raises InputError."""
    least, most = _LIMITS[text(metadata, "clip.projector_type")]
    patch = whole_number(path, metadata, "clip.vision.patch_size", low=1)
    mean, std = (_colors(path, metadata, f"clip.vision.image_{name}") for name in ("mean", "std"))
    return Preprocessing(patch, MERGE, FRAMES, least, most, mean, std)


def _colors(path: Path, metadata: Mapping[str, Field], key: str) -> tuple[float, ...]:
    """A number for each color."""
    field = metadata.get(key)
    if field is None or field.item_type is not ValueType.FLOAT32 or field.count != CHANNELS:
        raise InputError(f"{path}: {key} is not a list of {CHANNELS} numbers, which this program needs")
    return tuple(field.value)
