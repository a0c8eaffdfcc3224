"""What tests of the Plan screen share."""

from __future__ import annotations

import shlex

import pytest

from sweep.cli.app import app as command_line
from sweep.commands import run as command
from sweep.planning.request import Request
from tui.screens.plan import PlanScreen


def asked_by(line: str) -> Request:
    """The Request that the real command line reads from a line."""
    seen: list[Request] = []

    class Seen(Exception):
        pass

    def see(request: Request, *_: object) -> None:
        seen.append(request)
        raise Seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "prepare", see)
        with pytest.raises(Seen):
            command_line(shlex.split(line)[1:], standalone_mode=False)
    return seen[0]


def is_planned(screen: PlanScreen) -> bool:
    """Whether the shown plan is of the current draft."""
    return screen.plan is not None and not screen._busy and screen._timer is None
