"""The files of a repository on the hub: their list, their headers by range requests, and a download that resumes.

huggingface_hub lists a repository and signs requests. Its own download keeps nothing of a file whose download was
interrupted, so the bytes are read here.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from converters.atomic import disk_errors
from converters.errors import InputError
from converters.hub import hub_errors, unreachable
from converters.hub_reachable import connection_error, is_reachable
from converters.llamacpp.container import GGUFHeader
from converters.llamacpp.reader import parse_header

_FIRST_RANGE, _LARGEST_RANGE = 1 << 16, 1 << 22
"""Bytes of the first request for a header, which are doubled for each further one. A vocabulary takes 6 to 11 MB, but
only the first part of a file has one."""
_PIECE = 1 << 20  # bytes of a file that are read at a time
_TIMEOUT = 30.0  # seconds without a byte after which a connection counts as broken
_ATTEMPTS = 5  # attempts in a row that bring no byte before a download fails
_HEADER_ATTEMPTS = 3  # attempts for a part of a header
_FULL = "free some space, and run the command again"
_PAUSE = 1.0  # seconds before the second attempt; doubled for each further one


@dataclass(frozen=True)
class RepositoryFile:
    """A file of a repository: its path there, its size in bytes, and a hash of its content.

    The hash is `sha256`, or git's hash `oid` for a file of which the hub does not say more.
    """

    path: str
    size: int
    oid: str
    sha256: str | None = None

    @property
    def content(self) -> str:
        """What identifies the content."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one revision, the hash of a commit."""

    repository: str
    revision: str
    files: tuple[RepositoryFile, ...]


def list_repository(hub_id: str) -> Listing:
    """List the files of a repository, "org/name" or "org/name@revision". Raises InputError."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.hf_api import RepoFile

    repository, _, revision = hub_id.partition("@")
    if not is_reachable():
        raise unreachable(hub_id)
    with hub_errors(hub_id, revision):
        hub = HfApi()
        try:
            commit = hub.model_info(repository, revision=revision or None).sha or revision or "main"
            tree = list(hub.list_repo_tree(repository, revision=commit, recursive=True))
        except HFValidationError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # no JSON, or another than the hub's
            raise InputError(
                f"{hub_id}: {constants.ENDPOINT} does not answer as the hub does ({type(error).__name__}); check"
                " HF_ENDPOINT, and whether this network asks for a login in a browser"
            ) from error
    files = [
        RepositoryFile(one.path, one.size, one.blob_id, None if one.lfs is None else one.lfs.sha256)
        for one in tree
        if isinstance(one, RepoFile)
    ]
    return Listing(repository, commit, tuple(sorted(files, key=lambda file: file.path)))


@contextmanager
def _bytes(repository: str, revision: str, path: str, start: int, stop: int) -> Iterator[Iterator[bytes]]:
    """The bytes of a file from `start` to `stop`, in pieces as they arrive.

    Raises InputError if the hub refuses them, and the client's own error if the connection breaks or the hub is busy.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = hf_hub_url(repository, path, revision=revision)
    headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response:
        with hub_errors(repository, revision, broken=False, file=path):
            hf_raise_for_status(response)
        pieces = response.iter_bytes()  # of no certain size, so that none is lost when the connection breaks
        yield pieces if response.status_code == 206 else _without_first(pieces, start)


def _without_first(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    """What follows the first `count` bytes, from a server that answers with the whole file."""
    for piece in pieces:
        yield piece[count:]
        count = max(0, count - len(piece))


def _range(repository: str, revision: str, path: str, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` to `stop`, in as many attempts as are worthwhile for a few bytes. Raises as
    `_bytes` does."""
    from huggingface_hub.errors import HfHubHTTPError

    failures = 0
    while True:
        try:
            with _bytes(repository, revision, path, start, stop) as pieces:
                return b"".join(pieces)[: stop - start]
        except (connection_error(), HfHubHTTPError):
            failures += 1
            if failures == _HEADER_ATTEMPTS:
                raise
        time.sleep(_PAUSE * 2 ** (failures - 1))


def read_remote_header(
    listing: Listing, file: RepositoryFile, keep: Callable[[bytes, int], object]
) -> tuple[GGUFHeader, int]:
    """Read the header of a GGUF file by range requests. Returns it and the bytes read.

    `keep` is called with everything that was read, and its place in the file. Raises InputError.
    """
    total, ahead = 0, _FIRST_RANGE

    def read(count: int, offset: int) -> bytes:
        nonlocal total, ahead
        stop = min(file.size, offset + max(count, ahead))
        ahead = min(2 * ahead, _LARGEST_RANGE)
        with hub_errors(listing.repository, listing.revision, file=file.path):
            data = _range(listing.repository, listing.revision, file.path, offset, stop)
        total += len(data)
        keep(data, offset)
        return data

    return parse_header(read, file.size, Path(f"{listing.repository}/{file.path}"), _FIRST_RANGE), total


def download(
    repository: str, revision: str, file: RepositoryFile, to: Path, progress: Callable[[int], object] = lambda _: None
) -> None:
    """Download a file to `to`. If there is a part of it already, only the rest is requested.

    `progress` is called with the number of bytes that are on the disk. Raises InputError if the hub refuses the file,
    if the connection breaks again and again without a byte, if the disk is full, or if the content is not what the hub
    lists; only in the last case is the file removed.
    """
    from huggingface_hub.errors import HfHubHTTPError

    name, failures = f"{repository}/{file.path}", 0
    digest = hashlib.sha256()
    with disk_errors(to, file.size, _FULL), to.open("a+b") as out:
        done = _read_part(out, file.size, digest)
        progress(done)
        while done < file.size:
            before = done
            try:
                with _bytes(repository, revision, file.path, done, file.size) as pieces:
                    for piece in pieces:
                        kept = piece[: file.size - done]
                        out.write(kept)
                        digest.update(kept)
                        done += len(kept)
                        progress(done)
            except (connection_error(), HfHubHTTPError) as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
            else:
                reason = "the connection ended too early"
            if done == file.size:
                break
            failures = 0 if done > before else failures + 1
            if failures == _ATTEMPTS:
                raise InputError(
                    f"{name}: the download broke at {done} of {file.size} bytes ({reason}); run the command again to"
                    " resume it"
                )
            if failures:
                time.sleep(_PAUSE * 2 ** (failures - 1))
        out.flush()
        os.fsync(out.fileno())
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        to.unlink()
        raise InputError(f"{name}: what was downloaded is not the file that the hub lists (its SHA-256 differs)")


def _read_part(out: IO[bytes], size: int, digest: hashlib._Hash) -> int:
    """Read what is there of a file of `size` bytes into `digest`. Returns the number of bytes; 0 if it has too many."""
    out.seek(0, os.SEEK_END)
    done = out.tell()
    if done > size:
        out.truncate(0)
        done = 0
    out.seek(0)
    while piece := out.read(_PIECE):
        digest.update(piece)
    return done
