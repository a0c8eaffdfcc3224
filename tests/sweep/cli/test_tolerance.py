"""--tolerance: a loss in points, or as a share of the reference's score above chance."""

from __future__ import annotations

import pytest
import typer

from presets.advice import Tolerance
from sweep.cli.parsers import tolerance


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2", Tolerance(0.02)), (" 0.5 ", Tolerance(0.005)), ("5%", Tolerance(0.05, of_score=True)), (None, None)],
)
def test_points_and_shares(text: str | None, expected: Tolerance | None) -> None:
    assert tolerance(text) == expected


@pytest.mark.parametrize("text", ["", "abc", "0", "-1", "150", "5%%", "nan", "2 points"])
def test_anything_else_is_rejected_with_what_to_write(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write it as 2 "):
        tolerance(text)
