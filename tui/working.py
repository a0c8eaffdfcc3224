"""What every screen and window has: the application with its own attributes, and workers that may fail in peace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from textual.worker import Worker, WorkerState, get_current_worker

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel
    from textual.screen import Screen

    from tui.app import SweepApp


class Working:
    """For the application and its screens: what a worker raises that nobody foresaw is told, and the screen stays.

    Their workers are to be started with `exit_on_error=False`.
    """

    @property
    def sweep(self) -> SweepApp:
        """The application."""
        return cast("SweepApp", cast("Screen[None]", self).app)

    def notify(self, message: str, *, title: str = "", severity: SeverityLevel = "information", **more: Any) -> None:
        """Told for some seconds in a corner. As plain text: messages hold names that are not markup."""
        super().notify(message, title=title, severity=severity, **{**more, "markup": False})  # type: ignore[misc]

    def deliver(self, call: Callable[..., object], *found: Any) -> None:
        """From a thread worker: hand over what it found, unless it is no longer wanted.

        A worker is no longer wanted when it was cancelled, which a later one of the same group does to it, and when
        its screen was closed. That is looked at by the event loop, directly before the call: looked at by the worker
        itself, it may be out of date when the call is made.
        """
        worker = get_current_worker()

        def call_if_wanted() -> None:
            if not worker.is_cancelled and (node := cast("Screen[None]", worker.node)).is_attached and node.is_running:
                call(*found)

        cast("Screen[None]", self).app.call_from_thread(call_if_wanted)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        error = event.worker.error
        if event.state is WorkerState.ERROR and error is not None:
            told = getattr(error, "error", error)
            self.sweep.notify(f"{type(told).__name__}: {told}"[:300], severity="error", title="That did not work")
