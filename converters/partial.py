"""A file written under a temporary name, which appears under its final name only when it is complete.

An interrupted file can be resumed: after its content it records what it will be and how far it came.
"""

import contextlib
import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from converters.atomic import disk_errors, make_public, publish
from converters.errors import InputError

_IDENTITY_BYTES, _BOOT_BYTES, _COUNT_BYTES = 32, 16, 8
_ON_DISK = bytes(_BOOT_BYTES)


class PartialFile:
    """A file of `size` bytes that will be called `path`.

    `identity` (SHA-256) identifies the content: a file left behind with the same identity is resumed from `steps`, the
    last count given to `save`. Without an identity, or while another process writes that file, the file is private and
    is removed with this process. Until it is published, its path is `temporary_path`. Used as a context manager, the
    file is kept for a later resume if the block is interrupted, and removed on an InputError, which means that the
    input or the disk is at fault. Raises InputError if the disk rejects an operation.
    """

    def __init__(self, path: Path, size: int, identity: bytes | None = None) -> None:
        self.path, self.size, self.steps = path, size, 0
        self._identity = identity
        self._published = False
        with self._disk_errors():
            if identity is None or not self._open_shared(path.with_name(partial_name(path))):
                self._identity = None
                self._descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
                self.temporary_path = Path(name)

    def __enter__(self) -> "PartialFile":
        try:
            if self.steps == 0:
                with self._disk_errors():
                    os.ftruncate(self._descriptor, 0)
                    os.ftruncate(self._descriptor, self.size)
        except InputError:
            self.__exit__(InputError)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        interrupted = kind is not None and not issubclass(kind, InputError)
        try:
            if interrupted and self._identity is not None and self.steps:
                with contextlib.suppress(OSError):  # without the sync it can be resumed until the machine stops
                    os.fsync(self._descriptor)
                    self._note(self.steps, _ON_DISK)
                    os.fsync(self._descriptor)
            elif not self._published:
                self.temporary_path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the file takes on the disk now; holes take nothing."""
        return os.fstat(self._descriptor).st_blocks * 512

    def write(self, data: bytes | npt.NDArray[np.uint8], offset: int) -> None:
        """Write all of `data` at `offset` (bytes). Safe to call from several threads."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # numpy arrays are buffers
        with self._disk_errors():
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                view, offset = view[count:], offset + count

    def save(self, steps: int) -> None:
        """Record that `steps` steps are written.

        The record survives this process. It survives a restart of the machine only if `__exit__` was reached before.
        """
        self.steps = steps
        if self._identity is not None:
            with self._disk_errors():
                self._note(steps, _boot())

    def finish(self) -> None:
        """Give the file its final size and permissions, and sync it to the disk."""
        with self._disk_errors():
            os.ftruncate(self._descriptor, self.size)
            make_public(self._descriptor)
            os.fsync(self._descriptor)

    def publish(self) -> None:
        """Rename a finished file to its final name."""
        with self._disk_errors():
            publish(self.temporary_path, self.path)
            self._published = True

    def _open_shared(self, temporary_path: Path) -> bool:
        """Open the file that any process may resume; False if another process is writing it now."""
        descriptor = os.open(temporary_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.stat(temporary_path)):
                raise BlockingIOError  # renamed or removed between open and lock
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            return False
        self._descriptor, self.temporary_path = descriptor, temporary_path
        note = os.pread(descriptor, _IDENTITY_BYTES + _BOOT_BYTES + _COUNT_BYTES + 1, self.size)
        identity, rest = note[:_IDENTITY_BYTES], note[_IDENTITY_BYTES:]
        if identity == self._identity and rest[:_BOOT_BYTES] in (_ON_DISK, _boot()):
            self.steps = int.from_bytes(rest[_BOOT_BYTES:], "little") if len(rest) == _BOOT_BYTES + _COUNT_BYTES else 0
        return True

    def _note(self, steps: int, boot: bytes) -> None:
        assert self._identity is not None
        os.pwrite(self._descriptor, self._identity + boot + steps.to_bytes(_COUNT_BYTES, "little"), self.size)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with disk_errors(self.path, self.size):
            yield


def partial_name(path: Path) -> str:
    """The name of a resumable file until it is complete."""
    return f".{path.name}.partial"


def _boot() -> bytes:
    """16 bytes that change when the machine restarts: data that was written but not synced may be lost then."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except OSError:  # not Linux; rounded, because setting the clock moves the boot time by seconds
        return round(psutil.boot_time() / 30).to_bytes(_BOOT_BYTES, "little")
