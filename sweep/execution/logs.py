"""The log files of a run's jobs, which hold the messages of native code."""

from __future__ import annotations

import re
from pathlib import Path

from sweep.jobs.cell import Cell


def log_name(cell: Cell) -> str:
    """The name of a cell's log: its label, or its kind if the cells of several variants run as one batch."""
    return cell.label if cell.job.batch_key is None else cell.kind


def log_path(directory: Path, name: str) -> Path:
    """The file of the log with this name in a run's folder."""
    return directory / "logs" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.log"
