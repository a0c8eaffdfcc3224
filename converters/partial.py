"""A file that grows beside its final name and appears there complete or not at all.

An interrupted one can be gone on with: behind its content stands what it is of and how far it came.
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
    """A file of `size` bytes on its way to `path`.

    `identity` (SHA-256) says what it will be: a file left behind with the same one is gone on with, from `steps`, the
    count last given to `save`. Without one, or where another process is at that file, it is private and goes with this
    process. As a context manager it stays for the next try if the block is interrupted, and goes if the input or the
    disk is to blame (InputError). Raises InputError for whatever the disk refuses.
    """

    def __init__(self, path: Path, size: int, identity: bytes | None = None) -> None:
        self.path, self.size, self.steps = path, size, 0
        self._identity = identity
        self._published = False
        with self._explained():
            if identity is None or not self._open_shared(path.with_name(partial_name(path))):
                self._identity = None
                self._descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
                self._beside = Path(name)

    def __enter__(self) -> "PartialFile":
        try:
            if self.steps == 0:
                with self._explained():
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
                with contextlib.suppress(OSError):  # then it stays good until the machine stops
                    os.fsync(self._descriptor)
                    self._note(self.steps, _ON_DISK)
                    os.fsync(self._descriptor)
            elif not self._published:
                self._beside.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    @property
    def allocated_bytes(self) -> int:
        """What it takes of the disk now; holes take nothing."""
        return os.fstat(self._descriptor).st_blocks * 512

    def write(self, data: bytes | npt.NDArray[np.uint8], offset: int) -> None:
        """All of `data` at `offset`. Safe to call from several threads."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # numpy arrays are buffers
        with self._explained():
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                view, offset = view[count:], offset + count

    def save(self, steps: int) -> None:
        """Note that so many steps are written. It outlives this process, and this machine where that ends in order."""
        self.steps = steps
        if self._identity is not None:
            with self._explained():
                self._note(steps, _boot())

    def finish(self) -> None:
        """Bring it to the disk, whole."""
        with self._explained():
            os.ftruncate(self._descriptor, self.size)
            make_public(self._descriptor)
            os.fsync(self._descriptor)

    def publish(self) -> None:
        """Give a finished one its name."""
        with self._explained():
            publish(self._beside, self.path)
            self._published = True

    def _open_shared(self, beside: Path) -> bool:
        """Open the file that any process goes on with; False where one is at it now."""
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.stat(beside)):
                raise BlockingIOError  # renamed or removed between our opening and locking it
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            return False
        self._descriptor, self._beside = descriptor, beside
        note = os.pread(descriptor, _IDENTITY_BYTES + _BOOT_BYTES + _COUNT_BYTES + 1, self.size)
        identity, rest = note[:_IDENTITY_BYTES], note[_IDENTITY_BYTES:]
        if identity == self._identity and rest[:_BOOT_BYTES] in (_ON_DISK, _boot()):
            self.steps = int.from_bytes(rest[_BOOT_BYTES:], "little") if len(rest) == _BOOT_BYTES + _COUNT_BYTES else 0
        return True

    def _note(self, steps: int, boot: bytes) -> None:
        assert self._identity is not None
        os.pwrite(self._descriptor, self._identity + boot + steps.to_bytes(_COUNT_BYTES, "little"), self.size)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        with disk_errors(self.path, self.size):
            yield


def partial_name(path: Path) -> str:
    """What a file that can be gone on with is called until it is complete."""
    return f".{path.name}.partial"


def _boot() -> bytes:
    """16 bytes that change when the machine starts anew: what was written but not synced is lost then."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except OSError:  # not Linux; the clock may be set by seconds, a restart takes longer
        return round(psutil.boot_time() / 30).to_bytes(_BOOT_BYTES, "little")
