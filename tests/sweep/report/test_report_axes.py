"""The axes of plots: ticks are round, and the module does not load HTML templates."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sweep.report.axes import ticks


def test_a_plot_in_the_terminal_loads_no_html() -> None:
    code = "import sys, tui.widgets.plot; print([name for name in sys.modules if name in ('html', 'jinja2')])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", ended.stderr


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(2.1, 8.6, [3, 4, 5, 6, 7, 8]), (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3, 3, [-3, -2, -1, 0, 1, 2, 3])],
)
def test_linear_ticks_are_round(low, high, expected):
    assert ticks(low, high, most=7 if low > 1 else 6) == pytest.approx(expected)


def test_log_ticks_are_powers_of_ten_or_finer_if_there_are_few():
    assert ticks(0.00003, 0.04, log=True) == pytest.approx([0.0001, 0.001, 0.01])
    assert ticks(0.003, 0.04, log=True) == pytest.approx([0.005, 0.01, 0.02])
    assert ticks(0.011, 0.019, log=True) == pytest.approx([0.012, 0.014, 0.016, 0.018])  # no 1, 2 or 5 inside
