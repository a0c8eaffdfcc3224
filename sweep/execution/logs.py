"""Where the native messages of a run's workers go."""

from __future__ import annotations

import re
from pathlib import Path

from sweep.jobs.cell import Cell


def log_name(cell: Cell) -> str:
    """What the messages of a cell are filed under: its variant, or its kind where variants are made in one go."""
    return cell.variant if cell.job.batch is None else cell.kind


def log_path(directory: Path, name: str) -> Path:
    """The file that takes the messages filed under a name."""
    return directory / "logs" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.log"
