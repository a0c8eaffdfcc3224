"""Worker threads of the application and its screens: they deliver results, and their errors are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textual.worker import Worker, WorkerState, get_current_worker

from tui.one_shot_timers import OneShotTimers

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel


class WorkerHost(OneShotTimers):
    """Base of the application and its screens. An unexpected error of a worker is shown; the screen stays open.

    Workers are started with `exit_on_error=False`.
    """

    def notify(self, message: str, *, title: str = "", severity: SeverityLevel = "information", **more: Any) -> None:
        """Show a message in a corner for some seconds, as plain text: names in messages are not markup."""
        super().notify(message, title=title, severity=severity, **{**more, "markup": False})  # type: ignore[misc]

    def deliver(self, call: Callable[..., object], *found: Any) -> None:
        """From a worker thread: call `call(*found)` in the event loop, unless the result is no longer needed.

        A worker is no longer needed when it was cancelled, which a later worker of the same group does, and when its
        screen was closed. The event loop checks this directly before the call. A check in the worker's own thread can
        be out of date by the time of the call.
        """
        worker = get_current_worker()

        def call_if_needed() -> None:
            if not worker.is_cancelled and self.is_attached and self.is_running:
                call(*found)

        if self.is_attached:  # a closed screen does not know the application
            self.app.call_from_thread(call_if_needed)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        error = event.worker.error
        if event.state is WorkerState.ERROR and error is not None:
            cause = getattr(error, "error", error)
            self.notify(f"{type(cause).__name__}: {cause}"[:300], severity="error", title="Unexpected error")
