"""The figures of every scored position of a text, and the file in which a measurement in rounds keeps them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.atomic import AtomicFile
from converters.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Positions:
    """The divergence at every scored position of a text; each array has shape (n_windows, rows).

    The first four fields are those of RowDivergence. `nll` and `reference_nll` are the negative log-likelihoods, in
    nats, of the next token by the variant and by the reference.
    """

    kld: Array
    variance: Array
    same_top: NDArray[np.bool_]
    confidence: Array
    nll: Array
    reference_nll: Array


@dataclass(frozen=True)
class TextPositions:
    """The negative log-likelihoods of the next tokens, in nats (n_windows, rows), and the divergence; None without a
    reference."""

    nll: Array
    divergence: Positions | None

    @property
    def windows(self) -> int:
        return len(self.nll)

    def save(self, path: Path) -> None:
        """Write the arrays to an .npz file. Raises InputError if it cannot be written."""
        arrays = {"nll": self.nll}
        if self.divergence is not None:
            arrays |= {field.name: getattr(self.divergence, field.name) for field in fields(Positions)}
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]  # the stubs take its keywords for `allow_pickle`
        with AtomicFile(path, content.tell(), make_parents=True) as file:
            file.write(content.getbuffer())


def load_positions(path: Path) -> TextPositions | None:
    """Read what `save` wrote. None if the file does not exist. Raises InputError if it cannot be read."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = [field.name for field in fields(Positions)]
        positions = Positions(**{name: arrays[name] for name in names}) if "kld" in arrays else None
        return TextPositions(arrays["nll"], positions)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it, and it is measured again") from error


def joined(parts: Sequence[TextPositions]) -> TextPositions:
    """The windows of all parts, in order. The parts have a divergence all or none."""
    own = [part.divergence for part in parts if part.divergence is not None]
    divergence = None
    if own:
        divergence = Positions(
            **{field.name: np.concatenate([getattr(one, field.name) for one in own]) for field in fields(Positions)}
        )
    return TextPositions(np.concatenate([part.nll for part in parts]), divergence)
