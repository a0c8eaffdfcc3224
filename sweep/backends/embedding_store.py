"""Embeddings of images in a folder, so that an image is encoded once for all runs and variants with the same tower.

A file holds the embeddings of one image, float32. Its name is a hash of everything that they depend on: the bytes of
the image, the settings of the image processor, and the tower and engine that computed them. The text model is not part
of it. The files together stay within a limit; those that were not used for the longest time go first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from images.file import ImageFile
from images.preprocessing import Grid, Preprocessing
from sweep.backends.prompt_images import ImageEncoder
from sweep.defaults import IMAGE_CACHE_BYTES

_PARTIAL = ".partial"


class EmbeddingStore:
    """The folder `directory`, whose files take at most `limit_bytes`. Several processes may use it at the same time."""

    def __init__(self, directory: Path, limit_bytes: int = IMAGE_CACHE_BYTES) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes

    def get(self, key: str, shape: tuple[int, int]) -> NDArray[np.float32] | None:
        """The embeddings under `key`, mapped from their file; None if there are none of this shape."""
        path = self._path(key)
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            os.utime(path)  # the time of its last use
        except FileNotFoundError:  # never stored, or just removed by another process
            return None
        except (ValueError, EOFError):  # damaged: it is written again
            return None
        return found if found.shape == shape and found.dtype == np.float32 else None

    def put(self, key: str, embeddings: NDArray[np.float32]) -> None:
        """Store embeddings, and remove others until all are within the limit. Larger ones are not stored at all."""
        if embeddings.nbytes > self._limit_bytes:
            return
        with self._locked():
            for left in self._directory.glob(f"*{_PARTIAL}"):  # of a process that was killed
                left.unlink()
            partial = self._path(key).with_suffix(_PARTIAL)
            with open(partial, "wb") as file:
                np.save(file, np.ascontiguousarray(embeddings, np.float32), allow_pickle=False)
            partial.replace(self._path(key))
            self._remove_oldest(self._path(key))

    def _remove_oldest(self, kept: Path) -> None:
        files = {path: path.stat() for path in self._directory.glob("*.npy")}
        total = sum(stat.st_size for stat in files.values())
        for path, stat in sorted(files.items(), key=lambda item: item[1].st_mtime_ns):
            if total <= self._limit_bytes:
                return
            if path != kept:
                path.unlink()
                total -= stat.st_size

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.npy"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder, which is the kernel's, so it ends with its process."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with open(self._directory / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class IdentifiedEncoder(ImageEncoder, Protocol):
    """An ImageEncoder whose results can be stored. `preprocessing` has the settings of its image processor."""

    preprocessing: Preprocessing

    @property
    def identity(self) -> str:
        """Differs between encoders that give different embeddings for the same resized image."""
        ...


class StoredEncoder:
    """See ImageEncoder: takes embeddings from a store, and computes and stores those that are not there."""

    def __init__(self, encoder: IdentifiedEncoder, store: EmbeddingStore) -> None:
        self._encoder = encoder
        self._store = store
        self.width = encoder.width

    def grid(self, image: ImageFile) -> Grid:
        return self._encoder.grid(image)

    def encode(self, image: ImageFile) -> NDArray[np.float32]:
        parts = (image.content, repr(self._encoder.preprocessing), self._encoder.identity)
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        embeddings = self._store.get(key, (self.grid(image).tokens, self.width))
        if embeddings is None:
            embeddings = self._encoder.encode(image)
            self._store.put(key, embeddings)
        return embeddings
