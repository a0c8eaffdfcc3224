"""Requests to a running sweep from another process: files in the run's folder that the scheduler looks for.

The file `pause` asks the run to stop when the running cells are done; like any interrupted run, it can be resumed. If
the file is removed before, the run continues.
The file `cancel` holds the label of a cell: if that cell is running, its worker is killed and the run continues with
the other cells.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

LOOK_EVERY = 0.2  # seconds
CANCELLED = "cancelled by the user"


class Paused(KeyboardInterrupt):
    """The run was asked to stop, and no cell is running. The same command resumes it."""


def request_pause(directory: Path) -> None:
    """Ask the run in this folder to stop when the running cells are done."""
    (directory / "pause").touch()


def withdraw_pause(directory: Path) -> None:
    (directory / "pause").unlink(missing_ok=True)


def pause_requested(directory: Path) -> bool:
    return (directory / "pause").exists()


def request_cancel(directory: Path, label: str) -> None:
    """Ask the run in this folder to cancel the cell with this label, if it is running."""
    (directory / "cancel").write_text(label, encoding="utf-8")


def clear_requests(directory: Path) -> None:
    """Remove all requests, so that those to an earlier run have no effect on a new one."""
    for name in ("pause", "cancel"):
        (directory / name).unlink(missing_ok=True)


def take_cancel(directory: Path, labels: Collection[str]) -> str | None:
    """The label to cancel, if it is one of `labels`; the request is then removed. None if there is no such request."""
    file = directory / "cancel"
    label = file.read_text(encoding="utf-8") if file.exists() else None
    if label not in labels:
        return None
    file.unlink(missing_ok=True)
    return label
