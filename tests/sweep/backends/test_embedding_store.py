"""Embeddings are computed once, stay within the limit, and survive other processes and damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images.file import ImageFile, open_image
from images.preprocessing import Grid, Preprocessing
from sweep.backends.embedding_store import EmbeddingStore, StoredEncoder

PREPROCESSING = Preprocessing(16, 2, 2, 1024, 40960, (0.5,) * 3, (0.5,) * 3)
SIZE = 16 * 4  # bytes of an array of 16 values; the file has a header of 128 bytes


class Encoder:
    width = 4

    def __init__(self, identity: str = "tower", preprocessing: Preprocessing = PREPROCESSING) -> None:
        self.identity, self.preprocessing = identity, preprocessing
        self.calls = 0

    def grid(self, image: ImageFile) -> Grid:
        return self.preprocessing.grid(image)

    def encode(self, image: ImageFile) -> np.ndarray:
        self.calls += 1
        return np.full((self.grid(image).tokens, self.width), self.calls, np.float32)


def image(path: Path, color: int = 0) -> ImageFile:
    Image.new("RGB", (64, 32), (color, 0, 0)).save(path)
    return open_image(path)


def test_an_image_is_encoded_once_for_everything_that_shares_its_tower(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "store")
    first, again = Encoder(), Encoder()
    picture = image(tmp_path / "a.png")
    one = StoredEncoder(first, store).encode(picture)
    copied = open_image((tmp_path / "a.png").read_bytes())  # the same bytes under another name
    two = StoredEncoder(again, EmbeddingStore(tmp_path / "store")).encode(copied)
    assert np.array_equal(one, two)
    assert (first.calls, again.calls) == (1, 0)


def test_other_bytes_limits_and_towers_have_other_embeddings(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "store")
    picture = image(tmp_path / "a.png")
    limited = replace(PREPROCESSING, max_pixels=20480)
    for encoder in (Encoder(), Encoder("another"), Encoder(preprocessing=limited)):
        StoredEncoder(encoder, store).encode(picture)
        assert encoder.calls == 1
    encoder = Encoder()
    StoredEncoder(encoder, store).encode(image(tmp_path / "b.png", 1))
    assert encoder.calls == 1


def array(value: float) -> np.ndarray:
    return np.full((4, 4), value, np.float32)


def test_the_least_recently_used_embeddings_go_first(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, 3 * (SIZE + 128))
    for i, key in enumerate("abc"):
        store.put(key, array(i))
        os.utime(tmp_path / f"{key}.npy", (i, i))
    assert store.get("a", (4, 4)) is not None  # now the most recently used one
    store.put("d", array(3))
    assert [key for key in "abcd" if store.get(key, (4, 4)) is not None] == ["a", "c", "d"]
    store.put("large", np.zeros((400, 4), np.float32))  # more than the limit: not stored, and nothing goes for it
    assert [key for key in "abcd" if store.get(key, (4, 4)) is not None] == ["a", "c", "d"]


def test_mapped_embeddings_stay_readable_when_their_file_is_removed(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, SIZE + 128)
    store.put("a", array(1))
    held = store.get("a", (4, 4))
    store.put("b", array(2))
    assert store.get("a", (4, 4)) is None
    assert held is not None
    assert held.tolist() == array(1).tolist()


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array"])
def test_a_damaged_file_is_written_again(damage: bytes, tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "store")
    picture = image(tmp_path / "a.png")
    expected = np.array(StoredEncoder(Encoder(), store).encode(picture))
    (file,) = (tmp_path / "store").glob("*.npy")
    file.write_bytes(damage)
    encoder = Encoder()
    assert np.array_equal(StoredEncoder(encoder, store).encode(picture), expected)
    assert encoder.calls == 1
    assert np.array_equal(np.load(file), expected)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.partial").write_bytes(b"half")
    EmbeddingStore(tmp_path).put("b", array(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.npy", "lock"]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from sweep.backends.embedding_store import EmbeddingStore
store = EmbeddingStore(Path(sys.argv[1]), int(sys.argv[2]))
for i in range(300):
    key, value = str(i % 7), np.full((4, 4), i % 7, np.float32)
    found = store.get(key, (4, 4))
    assert found is None or (found == value).all(), found
    store.put(key, value)
"""


def test_two_processes_write_to_a_store_at_the_same_time(tmp_path: Path) -> None:
    limit = 4 * (SIZE + 128)
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(limit)]
    for process in [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    files = list(tmp_path.glob("*.npy"))
    assert sum(file.stat().st_size for file in files) <= limit
    assert all((np.load(file) == float(file.stem)).all() for file in files)
