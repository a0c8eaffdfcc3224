"""The table of calibration tokens per expert, which shows experts that were calibrated with few."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def expert_table(rows: Sequence[tuple[str, int, int, int, int]], few: int) -> Table:
    """A row for each layer with experts: see CalibrationFigures.experts. `few`: what counts as few tokens."""
    table = Table(box=None, pad_edge=False)
    for column in ("layer", "experts", "fewest tokens", "most tokens", f"under {few} tokens"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(str, row))
    return table
