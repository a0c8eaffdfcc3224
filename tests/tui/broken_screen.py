"""Runs the screen on a WORKSPACE and raises an exception in it, in the way that is named: WORKSPACE WAY."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from textual import work
from textual.drivers.linux_driver import LinuxDriver

from sweep.workspace import Workspace
from tui.app import SweepApp
from tui.terminal import restored_terminal


def in_the_event_loop(_: SweepApp) -> None:
    raise ValueError("broken")


@work(thread=True)
def in_a_worker_thread(_: SweepApp) -> None:
    raise ValueError("broken")


def while_the_terminal_is_restored(app: SweepApp) -> None:
    def stop(_: object) -> None:
        raise ValueError("broken")

    LinuxDriver.stop_application_mode = stop  # type: ignore[method-assign]
    app.exit()


def main() -> None:
    way: Any = globals()[sys.argv[2]]
    app = SweepApp(Workspace(Path(sys.argv[1])))
    app.call_later(lambda: app.set_timer(0.3, lambda: way(app) and None))
    with restored_terminal():
        app.run()
    sys.exit(app.return_code)


if __name__ == "__main__":
    main()
