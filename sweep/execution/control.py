"""What can be asked of a run while it goes, from another process: files in its folder, which the scheduler looks for.

`pause` ends the run after the cells at work, as an interruption does that loses nothing. `cancel` holds the label of
a cell; where that is at work, its worker is killed and the run goes on with the next.
"""

from __future__ import annotations

from collections.abc import Collection
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


def take_cancel(directory: Path, labels: Collection[str]) -> str | None:
    """The cell among `labels` that is to be given up, if one is; it is asked for once."""
    file = directory / "cancel"
    asked = file.read_text(encoding="utf-8") if file.exists() else None
    if asked not in labels:
        return None
    file.unlink(missing_ok=True)
    return asked
