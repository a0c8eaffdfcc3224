"""`sweep tui`: the terminal screen."""

from __future__ import annotations

import os
from pathlib import Path

from sweep.cli import common_options as common

EXAMPLES = """
Find out what fits, plan a sweep, run it and read its results:
  $ sweep tui
Open the screen on one run, named by the beginning of its id:
  $ sweep tui micro-q2-q8
"""


def tui(
    run: str | None = common.run_argument(
        None,
        "RUN",
        "The run to show: its id or a unique beginning of the id.",
        show_default="the latest run if it is running; otherwise the Fit screen opens",
    ),
    workspace: Path | None = common.WORKSPACE,
) -> int:
    """Open the terminal screen: see what fits, plan sweeps, watch them and read their results.

    Closing the screen does not stop a sweep.
    """
    # Textual reads the frame rate when it is imported. A key press can need two frames, so that at the default rate it
    # would be shown late.
    os.environ.setdefault("TEXTUAL_FPS", "120")
    # The only import from a higher layer, named in the import contracts: this command opens the screen. It is inside
    # the function so that no other command loads Textual.
    from tui.app import start

    return start(workspace, run)
