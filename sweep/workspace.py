"""Where a sweep keeps its files: one database, the artefacts, and a folder a run."""

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
    """The folders of one workspace. Artefacts are named by content, so runs share them."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "sweep.db"

    def artefacts(self, fingerprint: str) -> Path:
        """Of one model, by the beginning of its fingerprint."""
        return self.root / "artefacts" / fingerprint[:16]

    @property
    def texts(self) -> Path:
        return self.root / "texts"

    def run(self, run: str) -> Path:
        return self.root / "runs" / run

    @property
    def ablations(self) -> Path:
        """Their reports; results are in the database."""
        return self.root / "ablations"


def default_root() -> Path:
    """The user's data folder of this system, or BITSWEEP_WORKSPACE."""
    return Path(os.environ.get("BITSWEEP_WORKSPACE") or platformdirs.user_data_path("bitsweep"))


def open_workspace(root: Path | None) -> Workspace:
    """Make sure the folder is there and can be written. Raises InputError."""
    root = (root or default_root()).expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{root}: the workspace cannot be written ({error.strerror}); choose another with --workspace"
        ) from error
    return Workspace(root)


@contextmanager
def run_lock(directory: Path) -> Iterator[bool]:
    """Hold the lock of a run's folder; gives False where another process has it.

    The lock is the kernel's (flock), so it goes with its process however that ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as file:
        yield _locked(file)


class Sharing:
    """A folder of artefacts in use by this run, and perhaps by others."""

    def __init__(self, artefacts: Path, lock: TextIO) -> None:
        self._artefacts, self._lock = artefacts, lock

    def discard(self, files: Iterable[Path]) -> None:
        """Remove files of the folder, unless another run may be using them."""
        if _locked(self._lock):
            for file in files:
                if file.parent == self._artefacts:
                    _remove(file)
        fcntl.flock(self._lock, fcntl.LOCK_SH)


@contextmanager
def sharing(artefacts: Path, to_make: Collection[Path] = ()) -> Iterator[Sharing]:
    """Use a folder of artefacts beside other runs. Where no other does, what was left half-written goes first and last.

    What is left of files that this run is `to_make` stays: their export goes on with it. Every run holds a shared lock
    for its whole time; whoever gets the exclusive one is alone.
    """
    artefacts.mkdir(parents=True, exist_ok=True)
    used = {partial_name(path) for path in to_make}
    with open(artefacts.with_suffix(".lock"), "w") as file:
        _tidy(artefacts, file, used)
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            yield Sharing(artefacts, file)
        finally:
            _tidy(artefacts, file, used)  # workers that an interrupt killed


def _tidy(artefacts: Path, lock: TextIO, used: Collection[str]) -> None:
    if _locked(lock):
        for partial in [*artefacts.glob(".*.partial"), *artefacts.rglob(f".*{PART}")]:
            if partial.name not in used:
                _remove(partial)


def _remove(path: Path) -> None:
    """A file, or the directory of an int8 checkpoint."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _locked(file: TextIO) -> bool:
    """Try for the exclusive lock of an open file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
