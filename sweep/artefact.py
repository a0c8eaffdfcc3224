"""Artefacts: files that jobs read and write. A job knows only their names; the executor knows the folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

SAMPLES, SAMPLE_BYTES = 32, 1 << 16


@dataclass(frozen=True)
class Artefact:
    """A file or directory. `name` is its path relative to the workspace, or an absolute path for a file of the user."""

    name: str

    @classmethod
    def of(cls, path: Path) -> Artefact:
        """The artefact for a file of the user."""
        return cls(str(path.absolute()))

    def under(self, root: Path) -> Path:
        """The path in the workspace at `root`."""
        return root / self.name  # an absolute name replaces `root`


def sampled_digest(path: Path) -> str:
    """SHA-256 of a file's length and of samples of its content, because files of log-probabilities can have tens of
    gigabytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}".encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
