"""Files that jobs read and make, by name and not by place: whoever runs a job says where they lie."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

SAMPLES, SAMPLE_BYTES = 32, 1 << 16


@dataclass(frozen=True)
class Artefact:
    """A file or directory. `name` is its path below the workspace, or an absolute path: a file of the user's."""

    name: str

    @classmethod
    def of(cls, path: Path) -> Artefact:
        """A file of the user's."""
        return cls(str(path.absolute()))

    def under(self, root: Path) -> Path:
        """Where it lies in the workspace at `root`."""
        return root / self.name  # an absolute name stands for itself


def sampled_digest(path: Path) -> str:
    """Of a file's length and of samples of its content: one of log-probabilities may hold tens of gigabytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}".encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
