"""Timers that fire once, also on a busy machine."""

from __future__ import annotations

from textual.message_pump import MessagePump
from textual.timer import Timer, TimerCallback


class OneShotTimers(MessagePump):
    """A part of an App or Screen whose `set_timer` makes timers that always fire.

    Textual leaves out ticks that are late. If the process has to wait for a core just when a timer starts, for longer
    than the timer's delay, the only tick is late, and the timer never fires: the application would not adapt to a new
    size of the terminal any more, and a plan would never be made.
    """

    def set_timer(
        self, delay: float, callback: TimerCallback | None = None, *, name: str | None = None, pause: bool = False
    ) -> Timer:
        timer = super().set_timer(delay, callback, name=name, pause=pause)
        timer._skip = False  # its task has not begun yet
        return timer
