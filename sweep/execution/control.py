"""What can be asked of a run while it goes, from another process: files in its folder, which the runner looks for.

`pause` ends the run after the cell at work, as an interruption does that loses nothing. `cancel` holds the label of
a cell; where that is the one at work, its worker is killed and the run goes on with the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_EVERY = 0.2  # seconds
CANCELLED = "cancelled by the user"


class Paused(KeyboardInterrupt):
    """A run was asked to stop between two cells. The same command goes on with it."""


def ask_pause(directory: Path) -> None:
    """Let the run of this folder stop when the cell at work is through."""
    (directory / "pause").touch()


def take_back_pause(directory: Path) -> None:
    (directory / "pause").unlink(missing_ok=True)


def pause_is_asked(directory: Path) -> bool:
    return (directory / "pause").exists()


def ask_cancel(directory: Path, label: str) -> None:
    """Let the run of this folder give up the cell, if it is at it."""
    (directory / "cancel").write_text(label, encoding="utf-8")


def forget(directory: Path) -> None:
    """Nothing that was asked of an earlier run counts for a new one."""
    for name in ("pause", "cancel"):
        (directory / name).unlink(missing_ok=True)


@contextmanager
def cancelling(directory: Path, labels: Collection[str], kill: Callable[[], None]) -> Iterator[list[str]]:
    """While cells are at work, call `kill` when that is asked for one of them; gives a list that then holds its
    label."""
    over, cancelled = threading.Event(), list[str]()

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            asked = _asked(directory / "cancel")
            if asked in labels:
                (directory / "cancel").unlink(missing_ok=True)
                cancelled.append(str(asked))
                kill()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield cancelled
    finally:
        over.set()
        thread.join()


def _asked(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None
