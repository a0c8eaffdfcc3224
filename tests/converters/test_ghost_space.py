"""Temporary files on a file system without space: one line that names the directory."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

import presets
from converters.errors import InputError
from converters.llamacpp.ghost import vocabulary
from converters.resolver import open_source


@pytest.fixture
def no_large_files() -> Iterator[None]:
    """Files of at most 4096 bytes; Python ignores SIGXFSZ, so that a write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_vocabulary_that_does_not_fit_into_the_temporary_directory_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_large_files: None
) -> None:
    """Any other error would let a run skip the check of its tokens."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    metadata = open_source(presets.builtin_models()["micro"].directory, "micro").metadata
    with (
        pytest.raises(InputError, match=r"the vocabulary, \d+ bytes, cannot be written here .*; set TMPDIR"),
        vocabulary(metadata),
    ):
        pass
    assert not list(tmp_path.iterdir())
