"""Timers that fire once, when the process gets no core just after they started."""

import itertools

import pytest
from driving import play
from textual import timer
from textual.app import App

from tui.workers import WorkerHost


class Ours(WorkerHost, App[None]):
    pass


@pytest.mark.parametrize(("kind", "fires"), [(Ours, [1]), (App, [])])  # Textual's own is lost
def test_a_timer_whose_start_was_interrupted_fires(
    kind: type[App[None]], fires: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    async def script() -> None:
        app = kind()
        async with app.run_test() as pilot:
            late = itertools.count()
            with monkeypatch.context() as patched:
                patched.setattr(timer._time, "get_time", lambda: float(next(late)))
                app.set_timer(0.01, lambda: seen.append(1))
                await pilot.pause(0.1)
            await pilot.pause()

    play(script())
    assert seen == fires
