"""The folder for temporary files of a worker process.

A sweep that is killed cannot remove its folders, so the next worker that starts removes them. Each folder is locked by
the process that made it. The lock is the kernel's (flock), so it ends with that process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "bitsweep-worker-"


class TemporaryFolder:
    """A new, locked folder in the system's directory for temporary files."""

    def __init__(self) -> None:
        remove_abandoned()
        while True:
            self._directory = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
            self.path = Path(self._directory.name)
            self._lock = _lock(self.path, fcntl.LOCK_SH)  # None on a file system without locks, or if it was removed
            if self._lock is not None or self.path.exists():
                return

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        self._directory.cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_abandoned() -> None:
    """Remove the folders whose process has ended without removing them."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(path: Path, operation: int) -> int | None:
    """Open and lock a folder. None if it is gone, belongs to another user, cannot be locked, or another process holds
    the lock."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(folder, operation)
        os.stat(path, follow_symlinks=False)  # another process may have removed it before the lock was taken
    except OSError:
        os.close(folder)
        return None
    return folder
