"""The workspace: the folder with the store, the artefacts, and one folder per run."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import platformdirs

from converters.atomic import PART
from converters.errors import InputError
from converters.partial import partial_name


@dataclass(frozen=True)
class Workspace:
    """The paths in a workspace. The names of artefacts depend on their content, so runs share them."""

    root: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """The option that names this workspace in a command; empty if it is the default one."""
        return () if self.root == default_root().expanduser().absolute() else ("--workspace", str(self.root))

    @property
    def database(self) -> Path:
        return self.root / "sweep.db"

    def artefacts(self, fingerprint: str) -> Path:
        """The folder for the artefacts of one model."""
        return self.root / "artefacts" / fingerprint[:16]

    @property
    def texts(self) -> Path:
        return self.root / "texts"

    def run(self, run: str) -> Path:
        return self.root / "runs" / run

    @property
    def sizes(self) -> Path:
        """The folder for the reports that compare the runs of several models."""
        return self.root / "sizes"

    @property
    def ablations(self) -> Path:
        """The folder for the reports of ablations. Their results are in the database."""
        return self.root / "ablations"


def default_root() -> Path:
    """BITSWEEP_WORKSPACE if it is set, otherwise the system's folder for user data."""
    return Path(os.environ.get("BITSWEEP_WORKSPACE") or platformdirs.user_data_path("bitsweep"))


def open_workspace(root: Path | None) -> Workspace:
    """Create the folder if it does not exist. Raises InputError if it cannot be written."""
    root = (root or default_root()).expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{root}: the workspace cannot be written ({error.strerror}); choose another one with --workspace"
        ) from error
    return Workspace(root)


@contextmanager
def run_lock(directory: Path) -> Iterator[bool]:
    """Try to lock a run's folder. Yields whether the lock was free; False if another process has it.

    The lock is the kernel's (flock), so it ends with its process, however that ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as file:
        yield _locked(file)


class Sharing:
    """A folder of artefacts that this run uses, and perhaps other runs too."""

    def __init__(self, artefacts: Path, lock: TextIO) -> None:
        self._artefacts, self._lock = artefacts, lock

    def discard(self, files: Iterable[Path]) -> None:
        """Remove files from the folder, unless another run uses the folder."""
        if _locked(self._lock):
            for file in files:
                if file.parent == self._artefacts:
                    _remove(file)
        fcntl.flock(self._lock, fcntl.LOCK_SH)


@contextmanager
def sharing(artefacts: Path, to_make: Collection[Path] = ()) -> Iterator[Sharing]:
    """Use a folder of artefacts together with other runs.

    If no other run uses the folder, partly written files are removed at the beginning and at the end, except those of
    the files `to_make`: their export resumes with them. Every run holds a shared lock all the time, so a process that
    gets the exclusive lock is the only one.
    """
    artefacts.mkdir(parents=True, exist_ok=True)
    kept = {partial_name(path) for path in to_make}
    with open(artefacts.with_suffix(".lock"), "w") as file:
        _remove_partial(artefacts, file, kept)
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            yield Sharing(artefacts, file)
        finally:
            _remove_partial(artefacts, file, kept)  # an interrupt kills workers while they write


def _remove_partial(artefacts: Path, lock: TextIO, kept: Collection[str]) -> None:
    if _locked(lock):
        for partial in [*artefacts.glob(".*.partial"), *artefacts.rglob(f".*{PART}")]:
            if partial.name not in kept:
                _remove(partial)


def _remove(path: Path) -> None:
    """Remove a file, or the directory of an int8 checkpoint."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _locked(file: TextIO) -> bool:
    """Try to get the exclusive lock of an open file. Returns whether it was free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
